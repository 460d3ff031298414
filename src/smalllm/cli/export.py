"""`smalllm export RUN`."""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress
from smalllm.reporting.words import count, size

if TYPE_CHECKING:
    from smalllm.api.interop import Exported


@dataclass(frozen=True)
class Options:
    """Write a run for Hugging Face transformers or llama.cpp, and prove that it computes the same there."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory (its best checkpoint), or one checkpoint."""
    out: Path
    """The folder (hf) or file (gguf) to write; it must not exist."""
    format: Literal["hf", "gguf"] = "hf"
    """hf: a folder for transformers; gguf: a file for llama.cpp."""
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = "f32"
    """Of the weights; q8_0, 8 bits in blocks of 32, only for gguf."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="export")
    from smalllm.api.interop import export

    clean_up_when_ended()
    done = export(options.run, options.out, format=options.format, dtype=options.dtype, progress=make_progress())
    if options.json:
        print(json.dumps({**asdict(done), "path": str(done.path)}))
        return 0
    print(f"{done.path}: {done.family}, {count(done.parameters)} parameters, {options.dtype}, {size(done.bytes)}")
    print_proof(done)
    return 0


def print_proof(done: "Exported") -> None:
    """Say with what an export or import was compared, and how nearly it agreed."""
    if done.proof is not None:
        proof = done.proof
        print(
            f"  verified with {proof.by}: logits of {proof.n_positions:,} positions (largest difference "
            f"{proof.logit_difference:.1e}), token ids of {proof.n_texts} texts, {proof.n_continued} greedy tokens"
        )


def clean_up_when_ended() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that half-written files are removed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        sys.exit(1)

    signal.signal(signal.SIGTERM, stop)
