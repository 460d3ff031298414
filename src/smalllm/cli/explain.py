"""`smalllm explain RUN`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress


@dataclass(frozen=True)
class Options:
    """Look into a run's best checkpoint while it reads a prompt; writes a page with pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    prompt: str
    """Text to read: two tokens at least; of one longer than the model sees, the end is used."""
    out: Path | None = None
    """Where explain.html, explain.json and the pictures go; absent: explain in the run directory."""
    json: bool = False
    """Print what explain.json holds."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="explain")
    from smalllm.api.explain import explain

    found = explain(options.run, options.prompt, out=options.out, progress=make_progress())
    if options.json:
        print(json.dumps(found.as_dict()))
        return 0
    folder = options.out or Path(found.run) / "explain"
    print(f"{found.run} {found.checkpoint}: {len(found.tokens):,} tokens, {found.mean_bits:.2f} bits per token")
    for name, what in (("previous", "previous token"), ("duplicate", "duplicate token"), ("induction", "induction")):
        scored = [(getattr(head, name), head) for head in found.heads if getattr(head, name) is not None]
        if scored:
            score, head = max(scored, key=lambda pair: pair[0])
            print(f"  strongest {what:<16} layer {head.layer} head {head.head}: {score:.3f}")
    print(f"  page: {folder / 'explain.html'}")
    return 0
