"""One thread per model: it owns the decoder, lets sequences in and out, and never ends because of one of them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

from smalllm.errors import ConfigError
from smalllm.generation.decoder import Decoder, Event
from smalllm.serving.errors import RequestError, refused, too_busy
from smalllm.serving.metrics import EngineCounts
from smalllm.serving.ticket import Ticket, wake_all

_LOG = logging.getLogger("smalllm.serving")
_JOIN_S = 10.0
Found = TypeVar("Found")


class Engine:
    """Runs a decoder for many requests.

    Requests take turns: where several wait, each in turn gets the next free slot, so that one of many sequences
    lets others in between. A sequence is let in only when its prompt can be read in the next step. Between two steps at
    most one other computation runs, so that those who score prompts and those who write share the model.

    Args:
        decoder: nobody else's.
        prompt_tokens: that the decoder reads in a step.
        most_waiting: sequences, and computations, that may wait.
    """

    def __init__(self, decoder: Decoder, *, prompt_tokens: int, most_waiting: int) -> None:
        self.counts = EngineCounts()
        self._decoder, self._prompt_tokens, self._most_waiting = decoder, prompt_tokens, most_waiting
        self._condition = threading.Condition()
        self._turns: deque[Ticket] = deque()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._gone: list[Ticket] = []
        self._n_waiting = 0
        self._of_slot: dict[int, tuple[Ticket, int]] = {}
        self._unread: dict[int, int] = {}  # slots without an event yet: tokens of their prompts
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="smalllm-engine", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Sequences and computations that have not begun."""
        return self._n_waiting + len(self._calls)

    @property
    def n_active(self) -> int:
        """Sequences in the decoder."""
        return len(self._of_slot)

    @property
    def backend(self) -> str:
        """What reads tokens: compiled or torch."""
        return self._decoder.backend

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Put a request's sequences in the queue.

        Raises:
            RequestError: the queue is full, or the engine has ended.
        """
        ticket.start_s = time.monotonic()
        with self._condition:
            self._check_room(len(ticket.waiting))
            self._n_waiting += len(ticket.waiting)
            self._turns.append(ticket)
            self._condition.notify()

    def compute(self, function: Callable[[], Found]) -> Future[Found]:
        """Have the thread call a function that uses the model; what it raises is the future's.

        Raises:
            RequestError: as `submit`.
        """
        future: Future[Found] = Future()
        with self._condition:
            self._check_room(1)
            self._calls.append((future, function))
            self._condition.notify()
        return future

    def cancel(self, ticket: Ticket) -> None:
        """End a request before the next step, if it has not ended by itself."""
        if not ticket.is_over:
            with self._condition:
                self._gone.append(ticket)
                self._condition.notify()

    def close(self) -> None:
        """End all requests, and the thread after its current step."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def _check_room(self, n: int) -> None:
        if self._is_closing or not self._thread.is_alive():
            raise RequestError(503, "the server is shutting down", code="shutting_down")
        if self.n_waiting + n > self._most_waiting:
            raise too_busy(f"{self.n_waiting} sequences wait already, {self._most_waiting} may; ask again later")

    def _run(self) -> None:
        try:
            while self._wait():
                self._leave()
                self._compute_one()
                self._enter()
                self._step()
        except Exception:
            _LOG.exception("the engine's thread ended because of an error")
        finally:
            self._end_all()

    def _wait(self) -> bool:
        """Until there is something to do; False where the end has come."""
        with self._condition:
            while not (self._turns or self._calls or self._gone or self._of_slot or self._is_closing):
                self._condition.wait()
            return not self._is_closing

    def _leave(self) -> None:
        if not self._gone:
            return
        with self._condition:
            gone, self._gone = self._gone, []
        for ticket in gone:
            self._end(ticket, None)

    def _compute_one(self) -> None:
        while self._calls:
            future, function = self._calls.popleft()
            if future.set_running_or_notify_cancel():  # else it was for somebody who has gone
                break
        else:
            return
        try:
            found = function()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    def _enter(self) -> None:
        while self._decoder.n_free:
            with self._condition:
                if not self._turns:
                    return
                ticket = self._turns.popleft()
                index, ids, sampling = ticket.waiting[0]
                if self._decoder.n_unread() and self._decoder.n_unread(ids) > self._prompt_tokens:
                    self._turns.appendleft(ticket)
                    return
                ticket.waiting.popleft()
                self._n_waiting -= 1
                if ticket.waiting:
                    self._turns.append(ticket)
            try:
                slot = self._decoder.add(ids, sampling)
            except ConfigError as error:
                self._end(ticket, refused(error))
            else:
                self._of_slot[slot] = ticket, index
                self._unread[slot] = len(ids)

    def _step(self) -> None:
        if not self._of_slot:
            return
        try:
            events = self._decoder.step()
        except Exception:  # whose fault it is cannot be known
            _LOG.exception("a step of the decoder failed; the requests that took part are ended")
            self.counts.n_failed += 1
            for ticket in {ticket for ticket, _ in self._of_slot.values()}:
                self._end(ticket, RequestError(500, "the model failed; the server's log says why", code="failed"))
            return
        now_s = time.monotonic()
        touched = {self._hand_over(event, now_s): None for event in events}
        self._wake([ticket for ticket in touched if ticket.wants_wake])

    def _hand_over(self, event: Event, now_s: float) -> Ticket:
        ticket, index = self._of_slot[event.slot]
        self.counts.n_read += self._unread.pop(event.slot, 0)
        self.counts.n_generated += 1
        if not ticket.n_tokens:
            ticket.first_s = now_s
            self.counts.first_token_s.add(now_s - ticket.start_s)
        ticket.n_tokens += 1
        ticket.events.append((index, event))
        if event.finish_reason is not None:
            del self._of_slot[event.slot]
            ticket.n_open -= 1
            if not ticket.n_open:
                ticket.is_over = True
                if now_s > ticket.first_s:
                    self.counts.tokens_per_second.add((ticket.n_tokens - 1) / (now_s - ticket.first_s))
        return ticket

    def _end(self, ticket: Ticket, error: Exception | None) -> None:
        """Take out what is left of a request, wherever it is."""
        if ticket.is_over:
            return
        with self._condition:
            self._n_waiting -= len(ticket.waiting)
            if ticket.waiting:
                self._turns.remove(ticket)
                ticket.waiting.clear()
        for slot in [slot for slot, (whose, _) in self._of_slot.items() if whose is ticket]:
            del self._of_slot[slot]
            self._unread.pop(slot, None)
            if slot in self._decoder.active:  # else it had its last token in the very step that failed
                self._decoder.remove(slot)
        ticket.error = error
        ticket.is_over = True
        self._wake([ticket])

    def _end_all(self) -> None:
        with self._condition:
            self._is_closing = True
            calls, self._calls = self._calls, deque()
            tickets = {*self._turns, *self._gone, *(ticket for ticket, _ in self._of_slot.values())}
        error = RequestError(503, "the server is shutting down", code="shutting_down")
        for ticket in tickets:
            self._end(ticket, error)
        for future, _ in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _wake(self, tickets: Collection[Ticket]) -> None:
        """One call to the event loop for all of them."""
        for loop in {ticket.loop for ticket in tickets}:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake_all, [ticket for ticket in tickets if ticket.loop is loop])
