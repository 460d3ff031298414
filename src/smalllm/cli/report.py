"""`smalllm report RUN`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from smalllm.cli.options import parse
from smalllm.errors import RunError
from smalllm.rundir import RunDir


@dataclass(frozen=True)
class Options:
    """Draw a run's plots and write its page, finished or not."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="report")
    run = RunDir(options.run)
    if not run.config.exists():
        raise RunError(f"{run.path}: not a run directory (no config.toml); give what `smalllm train` wrote with --out")
    from smalllm.reporting import write_report

    print(write_report(run))
    return 0
