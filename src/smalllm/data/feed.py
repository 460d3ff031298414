"""Windows of tokens for training, encoded in the background while the model trains.

One thread reads blocks and cuts them into parts, others encode the parts; they come out in the order in which they
were read, however many threads there are. Encoders release Python's lock, so threads are enough.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smalllm.data.pieces import Piece
from smalllm.data.stream import Position
from smalllm.errors import DataError

PART_BYTES = 1 << 18
"""Text that is encoded at a time: little, so that the first step and the end of a run need not wait for a block."""
N_AHEAD = 16
"""Parts held ready, besides those being encoded."""
_LOOK_S = 0.1  # how often a thread that waits looks whether it should end

Blocks = Iterator[tuple[Position, list[Piece]]]
_Ready = tuple[Position | None, "Future[NDArray]"] | BaseException  # a position where a block begins


class WindowFeed:
    """A rank's windows in order, from a position on. Close it when done.

    Attributes:
        position: where the next window begins.
        waited_s: how long `take` has waited for text so far [s].
    """

    def __init__(
        self,
        read_from: Callable[[Position], Blocks],
        encode: Callable[[list[Piece]], NDArray],
        *,
        start: Position,
        context_length: int,
        n_workers: int = 1,
    ) -> None:
        """Nothing is read before the first `take`.

        Args:
            read_from: the blocks from a position on.
            encode: the tokens of some documents; called in several threads.
            start: where the first window begins.
            context_length: inputs per window [tokens].
            n_workers: threads that encode. The order does not depend on it.
        """
        self.position = start
        self.waited_s = 0.0
        self._context_length = context_length
        self._tokens: NDArray = np.empty(0, np.int64)
        self._marks: list[tuple[int, Position]] = []  # where in _tokens a block begins; the first may be before 0
        self._n_to_skip = start.token
        self._stop = threading.Event()
        self._ready: queue.Queue[_Ready] = queue.Queue(N_AHEAD + n_workers)
        self._workers = ThreadPoolExecutor(n_workers, thread_name_prefix="smalllm-encode")
        arguments = (read_from, encode, start)
        self._reader = threading.Thread(target=self._read, args=arguments, name="smalllm-read", daemon=True)
        self._has_begun = False

    def take(self, n: int) -> NDArray[np.int64]:
        """The next `n` windows [n, context_length + 1]; [:, :-1] are inputs, [:, 1:] targets.

        Raises:
            DataError: the text cannot be read, or is not the one of the position that it started from.
        """
        if not self._has_begun:
            self._reader.start()
            self._has_begun = True
        length = self._context_length
        parts, n_tokens = [self._tokens], len(self._tokens)
        while n_tokens < n * length + 1:
            position, part = self._next_part()
            if position is not None:
                if self._marks and self._n_to_skip:
                    raise DataError(
                        f"the block of text at which the run was stopped lacks the last {self._n_to_skip:,} of the "
                        f"{self.position.token:,} tokens that were read of it: the text has changed. Restore it, or "
                        "start a new run with another --out"
                    )
                self._marks.append((n_tokens - self._n_to_skip, position))
            skipped = min(self._n_to_skip, len(part))
            self._n_to_skip -= skipped
            parts.append(part[skipped:])
            n_tokens += len(part) - skipped
        tokens = np.concatenate(parts)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[: n * length : length]
        rows = windows.astype(np.int64)
        self._advance(tokens, n * length)
        return rows

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        if self._has_begun:
            self._reader.join()
        self._workers.shutdown(cancel_futures=True)

    def _advance(self, tokens: NDArray, n_used: int) -> None:
        self._tokens = tokens[n_used:].copy()  # a view would keep all that came before
        self._marks = [(start - n_used, position) for start, position in self._marks]
        while len(self._marks) > 1 and self._marks[1][0] <= 0:
            self._marks.pop(0)
        start, position = self._marks[0]
        self.position = replace(position, token=-start)

    def _next_part(self) -> tuple[Position | None, NDArray]:
        began_at = time.monotonic()
        ready = self._ready.get()
        if isinstance(ready, BaseException):
            self._ready.put(ready)  # whoever asks again gets the same answer
            raise ready
        tokens = ready[1].result()
        self.waited_s += time.monotonic() - began_at
        return ready[0], tokens

    def _read(
        self, read_from: Callable[[Position], Blocks], encode: Callable[[list[Piece]], NDArray], start: Position
    ) -> None:
        try:
            for position, pieces in read_from(start):
                for number, part in enumerate(_cut(pieces)):
                    if not self._put((None if number else position, self._workers.submit(encode, part))):
                        return
        except BaseException as error:  # it is raised where the windows are taken
            self._put(error)

    def _put(self, ready: _Ready) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(ready, timeout=_LOOK_S)
                return True
            except queue.Full:
                continue
        return False


def _cut(pieces: list[Piece]) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    n_bytes = 0
    for piece in pieces:
        part.append(piece)
        n_bytes += len(piece.raw)
        if n_bytes >= PART_BYTES:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


class FeedBatches:
    """The windows of each step by its cursor: the current step's again, or the next one's.

    What comes before training (compiling, timing) looks at the first step's windows without using them up.

    Attributes:
        feed: where they come from.
    """

    def __init__(self, feed: WindowFeed, *, cursor: int, n: int, n_ranks: int = 1) -> None:
        """Begin at a step.

        Args:
            feed: of this rank.
            cursor: windows that all ranks had consumed where `feed` starts.
            n: windows of all ranks per step.
            n_ranks: how many share them, in equal parts.
        """
        self.feed, self._n, self._n_own = feed, n, n // n_ranks
        self._cursor, self._start = cursor, feed.position
        self._rows: NDArray[np.int64] | None = None

    def rows(self, cursor: int) -> NDArray[np.int64]:
        """This rank's windows of the step at `cursor` [n / n_ranks, context_length + 1].

        Raises:
            ValueError: neither the step that was asked for last nor the one after it.
        """
        if self._rows is not None and cursor == self._cursor + self._n:
            self._cursor, self._start, self._rows = cursor, self.feed.position, None
        if cursor != self._cursor:
            raise ValueError(f"a stream goes forward only: at window {self._cursor}, asked for {cursor}")
        if self._rows is None:
            self._rows = self.feed.take(self._n_own)
        return self._rows

    def position(self, cursor: int) -> Position:
        """Where the windows of the step at `cursor` begin; the step asked for last, or the one after it."""
        if cursor == self._cursor:
            return self._start
        if self._rows is None or cursor != self._cursor + self._n:
            raise ValueError(f"a stream goes forward only: at window {self._cursor}, asked for {cursor}")
        return self.feed.position
