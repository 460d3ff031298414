"""What a request and the engine's thread share: sequences on the way in, events on the way out."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from smalllm.generation.decoder import Event
from smalllm.generation.sampling import SamplingConfig

Asked = tuple[Sequence[int], SamplingConfig]
"""Prompt ids and options of one sequence."""


class Ticket:
    """The sequences of one request. Made and read on the event loop; the engine's thread adds to it.

    Neither side locks: the deques are safe for one writer and one reader, and `is_over` is set after the last event.

    Args:
        asked: the sequences, at least one.
        streams: whether the request wants each event as it comes, or waits for the last.

    Attributes:
        waiting: (index, prompt ids, options) of those that have not begun; the engine's.
        n_open: sequences that have not ended; the engine's.
        events: (index, event), oldest first.
        is_over: nothing comes after what is in `events`.
        error: why, if it ended before its time.
        start_s: when it was submitted, on the monotonic clock; the engine's, as the next two.
        first_s: when its first token came.
        n_tokens: that it has so far.
    """

    def __init__(self, asked: Sequence[Asked], *, streams: bool) -> None:
        self.waiting = deque((i, ids, sampling) for i, (ids, sampling) in enumerate(asked))
        self.n_open = len(asked)
        self.streams = streams
        self.events: deque[tuple[int, Event]] = deque()
        self.is_over = False
        self.error: Exception | None = None
        self.start_s = self.first_s = 0.0
        self.n_tokens = 0
        self.loop = asyncio.get_running_loop()
        self._flag = asyncio.Event()
        self._listens = False

    @property
    def wants_wake(self) -> bool:
        """Whether the request sleeps and there is something that it waits for. Asked by the engine's thread."""
        return self._listens and self._is_ready()

    async def wait(self) -> None:
        """Until there is something new."""
        self._listens = True  # first this, then the look: the engine does it in the other order
        if not self._is_ready():
            await self._flag.wait()
        self._listens = False
        self._flag.clear()

    async def rest(self, seconds: float) -> None:
        """For so long whatever comes, but not past the end."""
        streams, self.streams = self.streams, False
        timer = self.loop.call_later(seconds, self._flag.set)
        await self.wait()
        timer.cancel()
        self.streams = streams

    def take(self, most: int) -> list[tuple[int, Event]]:
        """The oldest events that are there."""
        return [self.events.popleft() for _ in range(min(most, len(self.events)))]

    def wake(self) -> None:
        """End `wait`; only on the event loop."""
        self._flag.set()

    def _is_ready(self) -> bool:
        return self.is_over or (self.streams and bool(self.events))


def wake_all(tickets: Iterable[Ticket]) -> None:
    """Wake their requests, in one call from the engine's thread."""
    for ticket in tickets:
        ticket.wake()
