"""`smalllm bench tokenize`: how fast text becomes tokens."""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from smalllm.cli.progress import make_progress
from smalllm.config import TokenizerConfig


@dataclass(frozen=True)
class Options:
    """Measure how fast text becomes tokens."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Text, JSON Lines or Parquet files; none: the source of Python's standard library."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text_column: str = "text"
    """Name of the text in .jsonl and .parquet files."""
    separator: str | None = None
    """What stands between documents in a text file; absent: a file is one document."""
    megabytes: float = 40.0
    """How much text is used at most [10^6 bytes]."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    workers: int | None = None
    """Processes; absent: one per physical core."""
    json: bool = False
    """Print the result as JSON."""


def show(options: Options) -> int:
    """Measure, and print the rates."""
    from smalllm.api.bench_tokenize import bench_tokenize

    found = bench_tokenize(
        options.files,
        tokenizer=options.tokenizer,
        text_column=options.text_column,
        separator=options.separator,
        megabytes=options.megabytes,
        rounds=options.rounds,
        n_workers=options.workers,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    size = f"{found.documents:,} documents, {found.text_bytes / 1e6:,.1f} MB of text"
    print(f"{found.tokenizer} tokenizer, {size}, {options.rounds} rounds; ratios to the first, round by round")
    for way, rate in found.rates.items():
        rounds = " ".join(f"{one:.1f}" for one in rate.rounds)
        print(f"  {way:<24} {rate.mb_per_second:>8.1f} MB/s  {rate.ratio:>6.2f} x  ({rounds})")
    return 0
