"""`smalllm import PATH|HUB-NAME`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from smalllm.cli.export import clean_up_when_ended, print_proof
from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress
from smalllm.reporting.words import count


@dataclass(frozen=True)
class Options:
    """Make a run of a Hugging Face checkpoint: GPT-2, Starcoder2, Llama or Qwen3."""

    source: Annotated[str, tyro.conf.Positional]
    """Checkpoint folder (config.json, safetensors, tokenizer), or a name on the Hub: openai-community/gpt2."""
    out: Path
    """Run directory to write; it must not exist."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="import")
    from smalllm.api.interop import import_model

    clean_up_when_ended()
    done = import_model(options.source, options.out, progress=make_progress())
    if options.json:
        print(json.dumps({**asdict(done), "path": str(done.path)}))
        return 0
    print(f"{done.path}: {done.family}, {count(done.parameters)} parameters")
    print_proof(done)
    print(f"  next: smalllm generate {shlex.quote(str(done.path))} --prompt 'Once upon a time'")
    return 0
