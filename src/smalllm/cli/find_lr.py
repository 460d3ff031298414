"""`smalllm find-lr RECIPE`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smalllm.cli.options import DottedConfig, given_fields, parse, run_options, split_recipe
from smalllm.cli.progress import make_progress
from smalllm.reporting.words import scientific, shell


@dataclass(frozen=True)
class Options:
    """Train for a moment while the learning rate rises, and suggest one; leaves no run and changes no data."""

    config: DottedConfig
    out: Path | None = None
    """Where find_lr.json and find_lr.png go; absent: find-lr/RECIPE."""
    steps: int = 100
    """Updates, one per rate."""
    min_lr: float = 1e-6
    """optim.lr of the first update; with Muon, optim.muon_lr rises in proportion."""
    max_lr: float = 1.0
    """optim.lr of the last update, unless the loss runs away before."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    config, rest, name = split_recipe(arguments, command="find-lr")
    options = parse(Options, rest, command=f"find-lr {name}", config=config)
    from smalllm.api.find_lr import find_lr

    out = options.out or Path("find-lr") / options.config.recipe
    found = find_lr(
        options.config,
        out=out,
        steps=options.steps,
        min_lr=options.min_lr,
        max_lr=options.max_lr,
        changes=given_fields(rest, options.config),
        name=name,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(found))
        return 0
    if found["lr"] is None:
        print(f"no suggestion: {found['reason']}")
    else:
        print(f"suggested: {scientific(found['lr'])}, {found['reason']}")
        rates = {f"optim.{key}": scientific(found[key]) for key in ("lr", "muon_lr") if key in found}
        words = ["smalllm", "train", name, *run_options(rest, without=rates)]
        print(f"  next: {shell([*words, *(w for key, rate in rates.items() for w in (f'--{key}', rate))])}")
    print(f"  configured: {scientific(found['configured_lr'])}; steepest fall: {scientific(found['steepest_lr'])}")
    print(f"  plot: {out / 'find_lr.png'}")
    return 0
