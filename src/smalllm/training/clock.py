"""Where the seconds of a run go: updates, and everything."""

import time


class Clock:
    """Counts seconds of updates apart from all seconds; goes on where an earlier sitting stopped.

    Uses the monotonic clock, so a change of the system's time does not matter.
    """

    def __init__(self, *, elapsed_s: float, train_time_s: float) -> None:
        self.train_time_s = train_time_s
        self._began_at = time.monotonic() - elapsed_s
        self._row_time_s = 0.0
        self._row_steps = 0
        self._row_tokens = 0

    @property
    def elapsed_s(self) -> float:
        """All seconds of training so far, over all sittings."""
        return time.monotonic() - self._began_at

    def count_step(self, seconds: float, *, n_tokens: int) -> None:
        """Book one update and the tokens it learned from."""
        self.train_time_s += seconds
        self._row_time_s += seconds
        self._row_steps += 1
        self._row_tokens += n_tokens

    def take_row(self) -> tuple[float, float]:
        """Mean seconds and mean tokens of an update since the last call."""
        n_steps = max(1, self._row_steps)
        means = self._row_time_s / n_steps, self._row_tokens / n_steps
        self._row_time_s, self._row_steps, self._row_tokens = 0.0, 0, 0
        return means
