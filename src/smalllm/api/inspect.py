"""`inspect`: what is in a data directory, or in a folder of another program's shards."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from smalllm.api.data import load_data
from smalllm.api.foreign import configured_tokenizer
from smalllm.config import TokenizerConfig
from smalllm.data.foreign import find_shards, is_foreign, open_files
from smalllm.data.manifest import FORMAT
from smalllm.data.shards import TokenStream, open_split
from smalllm.data.survey import WINDOW_TOKENS, Survey, length_edges, survey, window_starts
from smalllm.errors import ConfigError
from smalllm.protocols import Tokenizer
from smalllm.reporting.data_plot import write_data_plot

N_TOP_TOKENS = 20
_ANY_ID = 2**31  # where no tokenizer is named: every id that the formats can hold, but for negative ones


def inspect_data(
    path: str | Path, *, tokenizer: TokenizerConfig | None = None, png: str | Path | None = None
) -> dict[str, Any]:
    """Look into prepared data, or into a folder of nanoGPT's, llm.c's or NumPy shards. Writes nothing into it.

    Manifests and headers are read whole; token frequencies, document lengths and windows come from at most 4,194,304
    tokens of each split, whatever its size.

    Args:
        path: the folder.
        tokenizer: which made another program's shards; without it ids are shown, and no documents.
        png: a picture of document lengths and top tokens is written here.

    Returns:
        What `smalllm inspect --json` prints; docs/formats.md describes it.

    Raises:
        DataError: the folder holds nothing to read, or something damaged.
        TokenizerError: the tokenizer is damaged or cannot be loaded.
        ConfigError: `tokenizer` is given for data that records its own.
    """
    path = Path(path)
    facts = _inspect_foreign(path, tokenizer) if is_foreign(path) else _inspect_ours(path, tokenizer)
    if png is not None:
        write_data_plot(facts, Path(png))
    return facts


def _inspect_ours(path: Path, asked: TokenizerConfig | None) -> dict[str, Any]:
    manifest, tokenizer = load_data(path, command=f"smalllm prepare RECIPE --out {path}")
    if asked is not None:
        raise ConfigError(f"tokenizer.kind = {asked.kind}: {path} records its own tokenizer; leave --tokenizer.* out")
    facts: dict[str, Any] = {
        "path": str(path),
        "format": FORMAT,
        "tokenizer": asdict(manifest.tokenizer),
        "source": dict(manifest.source),
    }
    if manifest.floor is not None:
        facts["floor"] = asdict(manifest.floor)
    surveys = {}
    facts["splits"] = {}
    for name, split in manifest.splits.items():
        stream = open_split(path, manifest, name)
        surveys[name] = survey(stream, eos_id=tokenizer.eos_id)
        facts["splits"][name] = {
            "tokens": split.tokens,
            "documents": split.documents,
            "text_bytes": split.text_bytes,
            "files": [{"name": f.name, "tokens": f.tokens, "dtype": manifest.dtype} for f in split.files],
            "sample": _sample(surveys[name], stream, tokenizer),
        }
    _add_histograms(facts, surveys)
    return facts


def _inspect_foreign(path: Path, asked: TokenizerConfig | None) -> dict[str, Any]:
    shards = find_shards(path)
    tokenizer = configured_tokenizer(asked) if asked is not None else None
    facts: dict[str, Any] = {"path": str(path), "format": shards.format}
    if tokenizer is not None:
        facts["tokenizer"] = {
            "kind": tokenizer.kind,
            "sha256": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
        }
    surveys, facts["splits"] = {}, {}
    for name, files in {"train": shards.train, "val": shards.val}.items():
        if not files:
            continue
        stream = open_files(files, vocab_size=tokenizer.vocab_size if tokenizer else _ANY_ID)
        found = surveys[name] = survey(stream, eos_id=tokenizer.eos_id if tokenizer else None)
        split: dict[str, Any] = {"tokens": stream.n_tokens}
        if found.is_whole and found.lengths is not None and tokenizer is not None:
            split["documents"] = len(found.lengths)
            split["text_bytes"] = _text_bytes(found, tokenizer)
        split["files"] = [{"name": f.name, "tokens": f.tokens, "dtype": np.dtype(f.layout.dtype).name} for f in files]
        facts["splits"][name] = {**split, "sample": _sample(found, stream, tokenizer)}
    if shards.aside:
        facts["aside"] = list(shards.aside)
    _add_histograms(facts, surveys)
    return facts


def _sample(found: Survey, stream: TokenStream, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the sample of one split says, but for the histogram."""
    sample: dict[str, Any] = {"tokens": found.tokens, "different_ids": len(found.ids)}
    if tokenizer is not None:
        sample["bytes_per_token"] = _text_bytes(found, tokenizer) / max(1, found.tokens)
    if found.lengths is not None:
        sample["documents"] = len(found.lengths)
    sample["top_tokens"] = [
        {"id": i, "count": n, "share": n / found.tokens, **({"text": tokenizer.decode([i])} if tokenizer else {})}
        for i, n in zip(found.ids[:N_TOP_TOKENS].tolist(), found.counts[:N_TOP_TOKENS].tolist(), strict=True)
    ]
    sample["windows"] = [_window(stream, start, tokenizer) for start in window_starts(stream.n_tokens)]
    return sample


def _window(stream: TokenStream, start: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    file, token = stream.where(start)
    ids = stream.read(start, min(start + WINDOW_TOKENS, stream.n_tokens)).tolist()
    return {"file": file, "token": token, "ids": ids, **({"text": tokenizer.decode(ids)} if tokenizer else {})}


def _text_bytes(found: Survey, tokenizer: Tokenizer) -> int:
    return int((tokenizer.token_byte_lengths[found.ids] * found.counts).sum())


def _add_histograms(facts: dict[str, Any], surveys: Mapping[str, Survey]) -> None:
    """The lengths of the documents of each split, in the same bins for all."""
    lengths = {
        name: found.lengths for name, found in surveys.items() if found.lengths is not None and len(found.lengths)
    }
    if not lengths:
        return
    edges = length_edges(np.concatenate(list(lengths.values())))
    for name, values in lengths.items():
        facts["splits"][name]["sample"]["document_tokens"] = {
            "min": int(values.min()),
            "median": float(np.median(values)),
            "mean": float(values.mean()),
            "p90": float(np.quantile(values, 0.9)),
            "max": int(values.max()),
            "histogram": {"edges": edges.tolist(), "documents": np.histogram(values, edges)[0].tolist()},
        }
