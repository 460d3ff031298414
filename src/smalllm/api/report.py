"""The report of runs, by their paths."""

from pathlib import Path

from smalllm.reporting import write_report
from smalllm.rundir import RunDir


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Draw the plots of one run, or of several to compare, and write `report.html` and `report.json`.

    Args:
        runs: run directories, finished or not.
        out: the folder to write into; absent: the run itself, for several runs `comparison`.

    Returns:
        The path of the page.

    Raises:
        RunError: there is no such run directory, or its files are damaged.
        ConfigError: no run was given.
    """
    return write_report(*(RunDir(Path(run)) for run in runs), out=None if out is None else Path(out))
