"""`smalllm prepare RECIPE`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from smalllm.cli.options import DottedConfig, parse, split_recipe
from smalllm.cli.progress import make_progress
from smalllm.config import RunConfig


@dataclass(frozen=True)
class Options:
    """Turn text into a tokenizer and shards of tokens. Run it again to continue after an interruption."""

    config: DottedConfig
    out: Path | None = None
    """Data directory; absent: data.path, else data/RECIPE."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    config, rest, name = split_recipe(arguments, command="prepare")
    options = parse(Options, rest, command=f"prepare {name}", config=config)
    run_config: RunConfig = options.config
    from smalllm.api.data import data_path, prepare

    out = options.out or data_path(run_config)
    manifest = prepare(run_config, out=out, progress=make_progress())
    if options.json:
        splits = {
            name: {"tokens": s.tokens, "documents": s.documents, "text_bytes": s.text_bytes, **asdict(s)}
            for name, s in manifest.splits.items()
        }
        print(json.dumps({"path": str(out), "splits": splits}))
        return 0
    print(f"{out}: {manifest.tokenizer.kind} tokenizer, {manifest.tokenizer.vocab_size:,} ids")
    for split, facts in manifest.splits.items():
        print(
            f"  {split:<5} {facts.tokens:>13,} tokens  {facts.documents:>9,} documents  "
            f"{facts.text_bytes / max(1, facts.tokens):.2f} bytes a token"
        )
    print(f"next: smalllm train {name} --data.path {out}")
    return 0
