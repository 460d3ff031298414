"""`smalllm report RUN [RUN …]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from smalllm.cli.options import parse
from smalllm.errors import ConfigError, RunError
from smalllm.rundir import RunDir


@dataclass(frozen=True)
class Options:
    """Draw the plots of one run, or of several to compare, and write their page; finished or not."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run directories."""
    out: Path | None = None
    """Folder for report.html, report.json and plots/; absent: the run itself, for several runs `comparison`."""
    watch: bool = False
    """Write nothing; serve the page on 127.0.0.1 and keep it up to date while the runs train, until Ctrl-C."""
    port: int = 8600
    """Of --watch; 0 for any free one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="report")
    runs = [RunDir(path) for path in options.runs]
    if not runs:
        raise ConfigError("no run was given; write it first: smalllm report RUN, as in smalllm report runs/stories")
    for run in runs:
        if not run.config.exists():
            raise RunError(
                f"{run.path}: not a run directory (no config.toml); give what `smalllm train` wrote with --out"
            )
    from smalllm.reporting import watch, write_report

    if not options.watch:
        print(write_report(*runs, out=options.out))
        return 0
    if options.out is not None:
        raise ConfigError("--watch serves the page and writes nothing; leave out --out or --watch")
    try:
        watch(runs, port=options.port, started=_announce)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def _announce(address: str) -> None:
    print(address, flush=True)
    print("the report as it grows; Ctrl-C ends it", file=sys.stderr)
