"""`smalllm prepare RECIPE`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalllm.cli.options import DottedConfig, parse, run_options, split_recipe
from smalllm.cli.progress import make_progress
from smalllm.config import RunConfig, TokenizerConfig, field_names
from smalllm.errors import ConfigError
from smalllm.reporting.words import duration, shell

if TYPE_CHECKING:
    from smalllm.api.preparation import Trial
    from smalllm.data.manifest import Manifest
    from smalllm.data.summary import Tally


@dataclass(frozen=True)
class Options:
    """Turn text into a tokenizer and shards of tokens. Run it again to continue after an interruption."""

    config: DottedConfig
    out: Path | None = None
    """Data directory; absent: data.path, else data/RECIPE."""
    dry_run: int | None = None
    """Read and encode only so many documents, write nothing, and say what to expect of the whole."""
    part: str | None = None
    """I/N, from 0/N to N-1/N: prepare every N-th file from the I-th on; each part may be made on another machine."""
    merge: bool = False
    """Make the parts in the data directory one, when all are there. They may be datatrove's (docs/cluster.md)."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    config, rest, name = split_recipe(arguments, command="prepare")
    options = parse(Options, rest, command=f"prepare {name}", config=config)
    run_config: RunConfig = options.config
    if options.dry_run is not None:
        return _dry_run(run_config, options.dry_run, as_json=options.json)
    from smalllm.api.cluster import merge_parts
    from smalllm.api.data import data_path
    from smalllm.api.preparation import prepare
    from smalllm.data.parts import part_path
    from smalllm.data.summary import read_summary

    out = options.out or data_path(run_config)
    if options.merge:
        if options.part is not None:
            raise ConfigError("--part and --merge: make the parts first, then merge them once")
        manifest = merge_parts(out)
    else:
        part = None if options.part is None else _part(options.part)
        manifest = prepare(run_config, out=out, part=part, progress=make_progress())
        out = out if part is None else part_path(out, part[0])
    summary = read_summary(out)
    if options.json:
        print(json.dumps(_as_json(out, manifest, summary)))
        return 0
    print(f"{out}: {manifest.tokenizer.kind} tokenizer, {manifest.tokenizer.vocab_size:,} ids")
    for split, facts in manifest.splits.items():
        print(
            f"  {split:<5} {facts.tokens:>13,} tokens  {facts.documents:>9,} documents  "
            f"{facts.text_bytes / max(1, facts.tokens):.2f} bytes a token"
        )
    if summary is not None:
        _print_summary(summary)
    if options.part is not None:
        words = ["smalllm", "prepare", name, "--merge", "--out", str(out.parent.parent)]
        print(f"next, when all parts are there: {shell(words)}")
    else:
        settled = {"data.path", *(f"tokenizer.{key}" for key in field_names(TokenizerConfig))}  # the data has it
        words = ["smalllm", "train", name, *run_options(rest, without=settled), "--data.path", str(out)]
        print(f"next: {shell(words)}")
    return 0


def _part(text: str) -> tuple[int, int]:
    task, _, n_tasks = text.partition("/")
    if not (task.isdecimal() and n_tasks.isdecimal()):
        raise ConfigError(f"--part {text}: expected I/N, such as 0/8 for the first of 8 parts")
    return int(task), int(n_tasks)


def _as_json(out: Path, manifest: "Manifest", summary: "Tally | None") -> dict[str, Any]:
    splits = {
        name: {"tokens": s.tokens, "documents": s.documents, "text_bytes": s.text_bytes, **asdict(s)}
        for name, s in manifest.splits.items()
    }
    return {"path": str(out), "splits": splits, "summary": None if summary is None else _counts(summary)}


def _counts(summary: "Tally") -> dict[str, Any]:
    counts = asdict(summary)
    del counts["open"]
    return {**counts, "bytes_per_token": summary.bytes_per_token, "partial_share": summary.partial_share}


def _print_summary(summary: "Tally") -> None:
    longest = summary.longest
    print(f"  text  {summary.text_bytes / 1e6:,.1f} MB, {summary.bytes_per_token:.2f} bytes a token of text")
    print(f"  longest document: {longest.tokens:,} tokens, {longest.text_bytes:,} bytes ({longest.origin})")
    print(f"  tokens that are only a part of a character: {summary.partial_share:.2%}")
    print(f"  duplicates left out: {summary.duplicates:,}")


def _dry_run(config: RunConfig, n_documents: int, *, as_json: bool) -> int:
    if n_documents < 1:
        raise ConfigError(f"--dry-run {n_documents}: must be at least 1 document")
    from smalllm.api.preparation import try_prepare

    trial = try_prepare(config, n_documents=n_documents, progress=make_progress())
    if as_json:
        expected = {name: round(value) for name, value in trial.expected().items()}
        counts = _counts(trial.tally)
        print(json.dumps({"summary": counts, "share": trial.share, "elapsed_s": trial.elapsed_s, "expected": expected}))
        return 0
    print(f"{trial.tally.documents:,} documents, {trial.tally.tokens:,} tokens; nothing was written")
    _print_summary(trial.tally)
    print(_forecast(trial))
    return 0


def _forecast(trial: "Trial") -> str:
    if trial.share == 1:
        return "that is all of the source"
    expected = trial.expected()
    if not expected:
        return "how much there is in the whole source is not known"
    return (
        f"the whole, estimated: {expected['documents']:,.0f} documents, {expected['tokens']:,.0f} tokens, "
        f"{expected['shard_bytes'] / 1e6:,.0f} MB of shards, {duration(expected['elapsed_s'])} "
        f"with {trial.n_workers} processes"
    )
