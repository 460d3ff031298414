"""`smalllm inspect PATH`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from smalllm.cli.options import parse
from smalllm.config import TokenizerConfig, TokenizerKind
from smalllm.errors import ConfigError
from smalllm.reporting.data_plot import token_label
from smalllm.reporting.words import count, number, printable, share, size

_BAR_WIDTH = 40
_MAX_BARS = 12
_TOP_SHOWN = 10
_TOP_IN_LINE = 5
_IDS_SHOWN = 12
_TEXT_SHOWN = 90


@dataclass(frozen=True)
class TokenizerOptions:
    """The tokenizer of shards that do not record it; without it ids are shown."""

    kind: TokenizerKind | None = None
    """gpt2, sentencepiece, huggingface or bytes."""
    path: Path | None = None
    """Its folder or file."""


@dataclass(frozen=True)
class Options:
    """Show what is in prepared data, or in a folder of nanoGPT's, llm.c's or NumPy shards, without changing it."""

    path: Annotated[Path, tyro.conf.Positional]
    """The folder."""
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    json: bool = False
    """Print it as JSON."""
    png: Path | None = None
    """Draw document lengths and top tokens into this file."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="inspect")
    from smalllm.api.inspect import inspect_data

    kind, path = options.tokenizer.kind, options.tokenizer.path
    if kind is None and path is not None:
        raise ConfigError(f"tokenizer.path = {path}: give its kind as well, for example --tokenizer.kind sentencepiece")
    tokenizer = TokenizerConfig(kind=kind, path=str(path) if path else None) if kind else None
    facts = inspect_data(options.path, tokenizer=tokenizer, png=options.png)
    if options.json:
        print(json.dumps(facts))
    else:
        print("\n".join(map(printable, _lines(facts))))  # folders and files may be called anything
        if options.png is not None:
            print(f"\npicture: {options.png}")
    return 0


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    tokenizer, splits = facts.get("tokenizer"), facts["splits"]
    made_by = f"{tokenizer['kind']} tokenizer, {tokenizer['vocab_size']:,} ids" if tokenizer else "tokenizer not known"
    yield f"{facts['path']}: {facts['format']}, {made_by}"
    for name, split in splits.items():
        yield _split_line(name, split)
    if "source" in facts:
        yield f"  source  {_source(facts['source'])}"
    if "floor" in facts:
        floor = facts["floor"]
        yield f"  floor   {floor['nats'] / floor['text_bytes'] / math.log(2):.4f} bits per byte on val"
    if "aside" in facts:
        yield f"  left aside by their names: {', '.join(facts['aside'])}"
    if "val" not in splits:
        yield "  no file is called val: train holds out the last data.val_fraction, or takes --data.val_files"
    for name, split in splits.items():
        sample = split["sample"]
        looked = "all tokens" if sample["tokens"] == split["tokens"] else f"{count(sample['tokens'])} of its tokens"
        yield ""
        yield f"{name}, from {looked}"
        yield from _length_lines(sample)
        yield from _top_lines(sample, eos_id=tokenizer["eos_id"] if tokenizer else None)
        yield from map(_window_line, sample["windows"])
    if not tokenizer:
        yield ""
        yield "With --tokenizer.kind gpt2 (or the one that made them) the ids are shown as text."


def _split_line(name: str, split: Mapping[str, Any]) -> str:
    files, dtypes = split["files"], sorted({file["dtype"] for file in split["files"]})
    parts = [f"{split['tokens']:>14,} tokens"]
    if "documents" in split:
        parts.append(_many(split["documents"], "document"))
    if "text_bytes" in split:
        parts.append(f"{size(split['text_bytes'])} of text")
    if "bytes_per_token" in split["sample"]:
        parts.append(f"{number(split['sample']['bytes_per_token'])} bytes a token")
    parts.append(f"{_many(len(files), 'file')} of {' and '.join(dtypes)}")
    return f"  {name:<6}" + ", ".join(parts)


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _source(source: Mapping[str, Any]) -> str:
    """The kind first; lists of files by how many there are."""
    rest = {key: value for key, value in source.items() if key != "kind"}
    shown = [f"{key} {len(value) if isinstance(value, list) else value}" for key, value in rest.items()]
    return ", ".join([str(source.get("kind", "unknown")), *shown])


def _length_lines(sample: Mapping[str, Any]) -> Iterator[str]:
    found = sample.get("document_tokens")
    if found is None:
        return
    yield (
        f"  {_many(sample['documents'], 'document')} seen whole: median {count(found['median'])} tokens, mean "
        f"{count(found['mean'])}, 90% up to {count(found['p90'])}, from {found['min']:,} to {found['max']:,}"
    )
    bars = _grouped(found["histogram"]["edges"], found["histogram"]["documents"])
    most, total = max(n for _, _, n in bars), sum(n for _, _, n in bars)
    width = max(len(f"{last - 1:,}") for _, last, _ in bars)
    for first, last, n in bars:
        bar = "#" * round(_BAR_WIDTH * n / most)
        yield f"    {first:>{width},} to {last - 1:>{width},}  {bar:<{_BAR_WIDTH}}  {share(n / total):>6}"


def _grouped(edges: Sequence[int], documents: Sequence[int]) -> list[tuple[int, int, int]]:
    """Neighbouring bins joined until there are few enough for a screen: (first edge, last edge, documents)."""
    step = -(-len(documents) // _MAX_BARS)
    return [
        (edges[i], edges[min(i + step, len(documents))], sum(documents[i : i + step]))
        for i in range(0, len(documents), step)
    ]


def _top_lines(sample: Mapping[str, Any], *, eos_id: int | None) -> Iterator[str]:
    yield f"  {_many(sample['different_ids'], 'different id')}; most frequent:"
    shown = [
        f"{token_label(token, eos_id=eos_id)} {share(token['share'])}" for token in sample["top_tokens"][:_TOP_SHOWN]
    ]
    for first in range(0, len(shown), _TOP_IN_LINE):
        yield "    " + "".join(f"{text:<20}" for text in shown[first : first + _TOP_IN_LINE]).rstrip()


def _window_line(window: Mapping[str, Any]) -> str:
    where = f"{window['file']}, token {window['token']:,}"
    if "text" not in window:
        ids = " ".join(map(str, window["ids"][:_IDS_SHOWN]))
        return f"  {where}: {ids}{' …' if len(window['ids']) > _IDS_SHOWN else ''}"
    text = printable(window["text"])
    return f'  {where}: "{text[:_TEXT_SHOWN]}{"…" if len(text) > _TEXT_SHOWN else ""}"'
