"""The manifest of a data directory: which shards there are, what is in them, which tokenizer and text made
them.

`read_manifest` believes nothing: a key too many, a key too few, a wrong type or a total that is not the sum
of its files is an error that names the key. There are no times and no absolute paths in a manifest, so the
same input gives the same bytes. Reading the shards themselves is `shards.py`; writing them is `prepare.py`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from smalllm.data.durable import write_json
from smalllm.errors import DataError

FORMAT = "smalllm-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
PROGRESS_NAME = ".prepare.json"
SPLITS = ("train", "val")

Record = TypeVar("Record", "ShardFile", "TokenizerFacts", "Floor")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of token ids.

    A document may run over several files. It is counted in the file that holds its end-of-document token, and
    its text in the file that holds the text's last token, so that each is counted once. In files of other
    programs nothing was counted: `documents` and `text_bytes` are 0.
    """

    name: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """The files of one split, in reading order; the totals are their sums."""

    files: tuple[ShardFile, ...]

    @property
    def tokens(self) -> int:
        """Token ids in all files, end-of-document tokens included."""
        return sum(file.tokens for file in self.files)

    @property
    def documents(self) -> int:
        """Documents in all files."""
        return sum(file.documents for file in self.files)

    @property
    def text_bytes(self) -> int:
        """UTF-8 length of the text behind the tokens [bytes]."""
        return sum(file.text_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What a reader must know of the tokenizer that made the ids; `sha256` is its fingerprint."""

    kind: str
    sha256: str
    vocab_size: int
    eos_id: int


@dataclass(frozen=True, slots=True)
class Floor:
    """What the val split costs under the process that generated it: no model can expect to do better.

    `nats` is minus the summed log-probability of the `documents` val documents, `text_bytes` their UTF-8
    length.
    """

    nats: float
    text_bytes: int
    documents: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the ids of a split lie in a file.

    `dtype` is NumPy's name with the byte order, `<u2`; `first_token` is the first one of this split, counted
    behind the `header_bytes`.
    """

    dtype: str
    header_bytes: int = 0
    first_token: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything `manifest.json` says. `source` is free-form and records what decided the text.

    `layouts` is in memory only (`foreign.py`): for files of other programs, by split, one for each file; their
    names may hold folders. None for shards of smalllm.
    """

    tokenizer: TokenizerFacts
    splits: Mapping[str, Split]
    source: Mapping[str, Any]
    floor: Floor | None = None
    layouts: Mapping[str, Sequence[Layout]] | None = None

    @property
    def dtype(self) -> str:
        """The integer type of the shards, little-endian: the smaller of the two that holds every id."""
        return dtype_for(self.tokenizer.vocab_size)


def dtype_for(vocab_size: int) -> str:
    """The integer type for ids below `vocab_size`: "uint16" up to 65,536 ids, else "uint32"."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def read_manifest(directory: Path) -> Manifest:
    """Read `directory/manifest.json` and check every key of it.

    Raises:
        DataError: no manifest, an unfinished preparation, or a manifest that is not exactly as it should be.
    """
    path = directory / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if (directory / PROGRESS_NAME).exists():
            raise DataError(
                f"{directory}: its preparation has not finished, so there is no {MANIFEST_NAME} yet. "
                "Run the same `smalllm prepare` command again: it continues."
            ) from None
        raise DataError(
            f"{directory}: found no {MANIFEST_NAME}, which every prepared data directory has. "
            "Run `smalllm prepare`, or give the directory that it wrote."
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text, so not a manifest. Prepare the data again.") from None
    try:
        return _manifest(json.loads(text))
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}: damaged ({problem}). Prepare the data again.") from None
    except ValueError as problem:
        raise DataError(f"{path}: {problem}") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `directory/manifest.json`, whole or not at all, and do not return before the disk has it."""
    splits = {
        name: {"tokens": split.tokens, "documents": split.documents, "text_bytes": split.text_bytes}
        | {"files": [asdict(file) for file in split.files]}
        for name, split in manifest.splits.items()
    }
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": manifest.dtype,
        "tokenizer": asdict(manifest.tokenizer),
        "splits": splits,
        "source": dict(manifest.source),
    }
    if manifest.floor is not None:
        content["floor"] = asdict(manifest.floor)
    write_json(directory / MANIFEST_NAME, content)


def _manifest(content: object) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'key format is not "{FORMAT}", so this is no manifest of smalllm. Give another directory.')
    version = _checked(content.get("version"), int, "version")
    if version > VERSION:
        raise ValueError(f"key version is {version}; this smalllm reads up to {VERSION}. Upgrade smalllm.")
    required = ["format", "version", "dtype", "tokenizer", "splits", "source"]
    content = _object(content, "", required + ["floor"] * ("floor" in content))
    tokenizer = _record(TokenizerFacts, content["tokenizer"], "tokenizer")
    if tokenizer.eos_id >= tokenizer.vocab_size:
        raise _wrong("tokenizer.eos_id", tokenizer.eos_id, f"an id below vocab_size ({tokenizer.vocab_size})")
    if content["dtype"] != dtype_for(tokenizer.vocab_size):
        raise _wrong("dtype", content["dtype"], f'"{dtype_for(tokenizer.vocab_size)}", as vocab_size demands')
    splits = _object(content["splits"], "splits", SPLITS)
    return Manifest(
        tokenizer=tokenizer,
        splits={name: _split(splits[name], f"splits.{name}") for name in SPLITS},
        source=_checked(content["source"], dict, "source"),
        floor=_record(Floor, content["floor"], "floor") if "floor" in content else None,
    )


def _split(value: object, where: str) -> Split:
    totals = ("tokens", "documents", "text_bytes")
    found = _object(value, where, (*totals, "files"))
    files = _checked(found["files"], list, f"{where}.files")
    split = Split(tuple(_record(ShardFile, file, f"{where}.files[{i}]") for i, file in enumerate(files)))
    for i, file in enumerate(split.files):
        if Path(file.name).name != file.name:
            raise _wrong(f"{where}.files[{i}].name", file.name, "the plain name of a file in this directory")
        if file.tokens == 0:
            raise _wrong(f"{where}.files[{i}].tokens", 0, "at least 1")
    for name in totals:
        if _checked(found[name], int, f"{where}.{name}") != getattr(split, name):
            raise _wrong(f"{where}.{name}", found[name], f"{getattr(split, name)}, the sum over its files")
    return split


def _record(kind: type[Record], value: object, where: str) -> Record:
    found = _object(value, where, [field.name for field in fields(kind)])
    return kind(
        **{field.name: _checked(found[field.name], field.type, f"{where}.{field.name}") for field in fields(kind)}
    )


def _object(value: object, where: str, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = _checked(value, dict, where)
    for name in [*names, *found]:
        if name not in found or name not in names:
            state = "missing" if name in names else "unknown"
            path = f"{where}.{name}".lstrip(".")
            raise ValueError(f"key {path} is {state}; expected exactly {', '.join(names)}. {_ADVICE}")
    return found


def _checked(value: object, kind: Any, where: str) -> Any:
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    elif kind is int:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    else:
        right = isinstance(value, kind)
    if not right:
        expected = {
            int: "a whole number of at least 0",
            float: "a finite number",
            str: "a string",
            dict: "an object",
        }
        raise _wrong(where, value, expected.get(kind, "a list"))
    return value


def _wrong(where: str, value: object, expected: str) -> ValueError:
    return ValueError(f"key {where} is {json.dumps(value)[:80]}; expected {expected}. {_ADVICE}")


_ADVICE = "The file was edited or damaged: restore it, or delete the directory and prepare the data again."
