"""SIGINT and SIGTERM ask a run to stop after the step in hand; a second one stops it at once.

What comes again within a second is the first one once more: `timeout` and Slurm send a signal to a process and to all
of its group, so that it arrives twice.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SAME_S = 1.0
"""Signals so soon after the first mean the same request [s]."""


class StopRequest:
    """Whether someone asked to stop, and with which signal."""

    name: str | None = None
    asked_at_s: float = 0.0
    """By the monotonic clock [s]."""


@contextlib.contextmanager
def stop_signals(*, insist: bool = True) -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM only sets `name`; the earlier handlers come back after.

    Args:
        insist: whether a second one, `SAME_S` later or more, is answered by the earlier handlers. Not so for processes
            that torchrun started: it signals all of them when it is stopped or one of them ends, whoever else did, and
            kills what takes too long.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _frame: FrameType | None) -> None:
        if request.name is None:
            request.name, request.asked_at_s = signal.Signals(number).name, time.monotonic()
        elif insist and time.monotonic() - request.asked_at_s >= SAME_S:
            give_back()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        give_back()
