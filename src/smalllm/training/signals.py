"""SIGINT and SIGTERM ask a run to stop after the step in hand; a second one stops it at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether someone asked to stop, and with which signal."""

    name: str | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM only sets `name`; the earlier handlers come back after."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
