"""How an act is shown on stderr: a live bar in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from smalllm.reporting.words import size

_LINE_EVERY_S = 10.0


def stopped(result: Mapping[str, Any]) -> str:
    """Where a run was stopped, and how much of it is saved."""
    steps, saved_steps = result["steps"], result["saved_steps"]
    saved = "everything is saved" if saved_steps == steps else f"saved up to step {saved_steps:,}"
    return f"stopped by {result['stopped']} at step {steps:,}; {saved}"


class TerminalProgress:
    """A bar with the newest numbers under it, redrawn four times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def begin(self, what: str, *, total: int, done: int = 0) -> None:
        """Start the bar; a total of 0 is one whose end is not known."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn() if total else TextColumn("{task.completed:,}"),
            TimeRemainingColumn() if total else TextColumn(""),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task(what, total=total or None, completed=done, note="")
        self._live = Live(self._bar, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """Move the bar to the row's step; rows of validation and tasks stay on the screen as a line."""
        if row["split"] != "train":
            for line in _lines(row):
                self._console.print(line)
        elif self._live is not None:
            self._bar.update(self._task, completed=row["step"], note=_train_note(row))

    def advance(self, done: int, note: str = "") -> None:
        """Move the bar."""
        if self._live is not None:
            self._bar.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class LineProgress:
    """Plain lines, at most one in ten seconds of training, for logs and pipes."""

    def __init__(self) -> None:
        self._total, self._said_at = 0, float("-inf")

    def begin(self, what: str, *, total: int, done: int = 0) -> None:
        """Say what starts."""
        self._total = total
        self.say(f"{what}{f': {total - done:,} steps to go' if total else ''}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Print rows of validation and tasks, and training rows now and then."""
        if row["split"] != "train":
            for line in _lines(row):
                self.say(line)
        elif self._is_due() or row["step"] == self._total:
            remaining_s = (self._total - row["step"]) * row["step_time_s"]
            self.say(f"step {row['step']:,}/{self._total:,}  {_train_note(row)}  {remaining_s:.0f} s left")

    def advance(self, done: int, note: str = "") -> None:
        """Print now and then."""
        if self._is_due():
            self.say(f"{done:,}/{self._total:,}, {note}" if self._total else f"{done:,} documents, {note}")

    def say(self, text: str) -> None:
        """Print a line; a run goes on where its log cannot."""
        try:
            print(text, file=sys.stderr, flush=True)
        except BrokenPipeError:  # the reader has gone, as in `smalllm train … 2>&1 | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        except OSError:  # a full disk; the line is tried again with the next
            return

    def end(self) -> None:
        """Nothing to take away."""

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._said_at < _LINE_EVERY_S:
            return False
        self._said_at = now
        return True


def make_progress() -> TerminalProgress | LineProgress:
    """A bar where stderr is a terminal, else lines."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal else LineProgress()


def _train_note(row: Mapping[str, Any]) -> str:
    return (
        f"loss {row['loss']:.3f} (mean {row['loss_ema']:.3f})  {row['tokens_per_second']:,.0f} tokens/s  "
        f"{size(row['peak_memory_bytes'])}"
    )


def _lines(row: Mapping[str, Any]) -> list[str]:
    """What is said of a row that is not of training; nothing of an event, which is also told by `say`."""
    return [make(row) for split, make in (("val", _val_line), ("task", _task_line)) if row["split"] == split]


def _task_line(row: Mapping[str, Any]) -> str:
    """The first measure of a task, and what guessing gives."""
    name = next(key for key in ("acc", "bits_per_byte") if key in row)
    return (
        f"step {row['step']:,}: {row['task']} {name} {row[name]:.3f} (chance {row['chance']:.3f}, {row['n']:,} scored)"
    )


def _val_line(row: Mapping[str, Any]) -> str:
    return (
        f"step {row['step']:,}: validation loss {row['loss']:.4f}, perplexity {row['perplexity']:.2f}, "
        f"{row['bits_per_byte']:.4f} bits per byte, accuracy {row['accuracy']:.1%}"
    )
