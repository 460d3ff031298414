"""Shards of other programs, read where they are: which files of a folder are for training and which are held out.

`find_shards` recognises the files (`foreign_formats.py`) and sorts them by name; `describe` checks ids against the
tokenizer and gives the manifest that `shards.open_split` reads them by, as it reads our own. Nothing is written, and a
folder of any size is described from a sample of it.
"""

import glob
import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from smalllm.data.foreign_formats import SUFFIXES, ForeignFile, recognise
from smalllm.data.manifest import MANIFEST_NAME, PROGRESS_NAME, Manifest, ShardFile, Split, TokenizerFacts
from smalllm.data.shards import TokenStream, allow_files, first_beyond, map_tokens, wrong_id
from smalllm.errors import DataError

WHOLE_BYTES = 256 << 20
"""Folders with no more ids than this are checked and hashed whole [bytes]."""

SAMPLE_TOKENS = 1 << 16
"""In larger ones, so many ids at the start, in the middle and at the end of every file."""

_OUR_NAMES = (MANIFEST_NAME, PROGRESS_NAME, ".prepare.lock", "tokenizer/smalllm.json")
_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}, "test": {"test"}}
_READ_TOKENS = 1 << 20
_MOST_2_BYTE_IDS = 1 << 16


@dataclass(frozen=True, slots=True)
class ForeignShards:
    """The files of a folder by split, in reading order, all of one format; `aside` are those of neither split."""

    format: str
    train: tuple[ForeignFile, ...]
    val: tuple[ForeignFile, ...]
    aside: tuple[str, ...] = ()


def is_foreign(directory: Path) -> bool:
    """Whether a folder holds files that may be shards of another program, and none of our own preparation."""
    return not any((directory / name).exists() for name in _OUR_NAMES) and bool(_candidates(directory))


def find_shards(directory: Path, *, val_files: Sequence[str] = ()) -> ForeignShards:
    """Recognise the `.bin` and `.npy` files of a folder and of the folders in it, hidden ones aside.

    A file with the word val, valid or validation in its name or its folder's is held out. Else one with the word test
    is for neither split; the rest is for training. So what is called validation anywhere is never trained on.

    Args:
        directory: the folder.
        val_files: files, folders or globs that are held out instead of those so called; they may lie anywhere.

    Raises:
        DataError: nothing to read, a file that cannot be read, files of several formats, or one whose name does not
            say what it is for while others' do.
    """
    paths = _candidates(directory)
    if not paths:
        raise DataError(_nothing_found(directory))
    named = {path.resolve(): path for pattern in val_files for path in _expand(pattern)}
    files = {path.resolve(): recognise(path, name=path.relative_to(directory).as_posix()) for path in paths}
    by_name: dict[str | None, list[ForeignFile]] = {"train": [], "val": [], "test": [], None: []}
    for path, file in files.items():
        if path not in named:
            by_name[_split_of(file.name)].append(file)
    if by_name[None] and by_name["train"]:
        raise DataError(
            f"{by_name[None][0].path}: its name does not say what it is for, while others are called training; "
            "expected train or val in its name or its folder's. Rename it, or move it out of the folder."
        )
    val = by_name["val"]
    if named:
        val = [files.get(path) or recognise(path, name=str(given.absolute())) for path, given in named.items()]
    found = [*by_name["train"], *by_name[None], *val]
    _check_one_format(found or list(files.values()))
    return ForeignShards(
        format=(found or list(files.values()))[0].format,
        train=tuple(by_name["train"] or by_name[None]),
        val=tuple(val),
        aside=tuple(file.name for file in by_name["test"] + (by_name["val"] if named else [])),
    )


def describe(shards: ForeignShards, tokenizer: TokenizerFacts, *, directory: Path, val_fraction: float) -> Manifest:
    """The manifest of a folder, in memory, after a look at the ids.

    Where no file is held out, the last `val_fraction` of the tokens are, from the end of a document on. The hashes are
    those of the checked ids: all of them up to `WHOLE_BYTES`, else `SAMPLE_TOKENS` in three places of every file.

    Args:
        shards: from `find_shards`.
        tokenizer: what the user says made the ids.
        directory: for the messages.
        val_fraction: share of the tokens to hold out [0 to 1).

    Raises:
        DataError: no files to train on, or nothing to hold out; an id that the tokenizer does not have; a file that is
            both trained on and held out.
    """
    _check_usable(shards, tokenizer, directory=directory, val_fraction=val_fraction)
    whole = sum(file.n_bytes for file in (*shards.train, *shards.val)) <= WHOLE_BYTES
    prints = {file: _fingerprint(file, tokenizer.vocab_size, whole=whole) for file in (*shards.train, *shards.val)}
    trained_on = {prints[file]: file for file in shards.train}
    for file in shards.val:
        if (same := trained_on.get(prints[file])) is not None:
            raise DataError(f"{file.path}: holds the same ids as {same.path}, and only one of them is held out.")
    parts = {"train": [(f, 0, f.tokens) for f in shards.train], "val": [(f, 0, f.tokens) for f in shards.val]}
    if not shards.val:
        parts["train"], parts["val"] = _cut(shards.train, tokenizer, val_fraction=val_fraction)
    return Manifest(
        tokenizer=tokenizer,
        splits={
            split: Split(tuple(ShardFile(f.name, stop - start, 0, 0, prints[f]) for f, start, stop in some))
            for split, some in parts.items()
        },
        source={"kind": "foreign", "format": shards.format},
        layouts={
            split: [replace(f.layout, first_token=start) for f, start, _ in some] for split, some in parts.items()
        },
    )


def open_files(files: Sequence[ForeignFile], *, vocab_size: int) -> TokenStream:
    """Map whole files as one stream."""
    allow_files(len(files))
    parts = [(file.name, map_tokens(file.path, file.layout, tokens=file.tokens)) for file in files]
    return TokenStream(parts, vocab_size=vocab_size)


def _candidates(directory: Path) -> list[Path]:
    """The files that are looked into, sorted by their path."""
    paths = [path for pattern in ("*", "*/*") for path in directory.glob(pattern) if path.suffix in SUFFIXES]
    shown = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(directory).parts)]
    return sorted(path for path in shown if path.is_file())


def _expand(pattern: str) -> list[Path]:
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return [path]
    matches = [path] if path.is_dir() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    files = [file for match in matches for file in (_candidates(match) if match.is_dir() else [match])]
    if not files:
        raise DataError(
            f"data.val_files: {_nothing_found(path) if path.is_dir() else f'{pattern} matches no file'}; expected "
            "files, folders or globs of the shards that are held out."
        )
    return files


def _split_of(name: str) -> str | None:
    stem = name.rpartition(".")[0]
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", stem)}  # ShakespeareVal is two
    return next((split for split in ("val", "test", "train") if words & _WORDS[split]), None)


def _nothing_found(directory: Path) -> str:
    there = sorted(path.name for path in directory.iterdir())[:5] if directory.is_dir() else []
    found = f"found {', '.join(there)}" if there else "found nothing"
    return f"{directory}: no shards to read: {found}; expected {' or '.join(SUFFIXES)} files, here or one folder below"


def _check_one_format(files: Sequence[ForeignFile]) -> None:
    kinds: dict[tuple[str, str], ForeignFile] = {}
    for file in files:
        # npy says its type in every file; llm.c's two types are those of two tokenizers.
        kinds.setdefault((file.format, "" if file.format == "npy" else file.layout.dtype), file)
    if len(kinds) > 1:
        (one, other, *_) = kinds.values()
        raise DataError(
            f"{one.path} is {_kind(one)}, {other.path} is {_kind(other)}; expected files of one format, made with one "
            "tokenizer. Move one kind into a folder of its own."
        )


def _kind(file: ForeignFile) -> str:
    return f"{file.format} ({np.dtype(file.layout.dtype).name})"


def _check_usable(shards: ForeignShards, tokenizer: TokenizerFacts, *, directory: Path, val_fraction: float) -> None:
    if not shards.train:
        raise DataError(
            f"{directory}: every file is held out ({shards.val[0].name}, …); expected files to train on as well. Give "
            "the folder of both, or this one as data.val_files and the other as data.path."
            if shards.val
            else f"{directory}: every file is called a test ({shards.aside[0]}, …); expected files to train on."
        )
    if not shards.val and not val_fraction:
        raise DataError(
            f"{directory}: no file is held out: none has val in its name or its folder's. Name some with "
            "--data.val_files FILES, or hold out the last tokens with --data.val_fraction 0.01."
        )
    if shards.format == "nanogpt" and tokenizer.vocab_size > _MOST_2_BYTE_IDS:
        raise DataError(
            f"{shards.train[0].path}: nanoGPT's files hold 2-byte ids, but the {tokenizer.kind} tokenizer has "
            f"{tokenizer.vocab_size:,} ids, too many for 2 bytes, so it did not make them. Name the one that did with "
            "--tokenizer.kind and --tokenizer.path."
        )


def _fingerprint(file: ForeignFile, vocab_size: int, *, whole: bool) -> str:
    """Check ids of a file and hash them: sha256 of its type and length, then of each range of ids and its place."""
    dtype = np.dtype(file.layout.dtype)
    digest = hashlib.sha256(f"{file.format} {dtype.str} {file.tokens}\n".encode())
    with file.path.open("rb") as stream:  # not mapped: 50 files of 200 MB were checked 15 times as fast so
        for start, stop in _ranges(file.tokens, whole=whole):
            digest.update(f"{start} {stop}\n".encode())
            stream.seek(file.layout.header_bytes + start * dtype.itemsize)
            for position in range(start, stop, _READ_TOKENS):
                raw = stream.read((min(position + _READ_TOKENS, stop) - position) * dtype.itemsize)
                digest.update(raw)
                ids = np.frombuffer(raw, dtype)
                if (wrong := first_beyond(ids, vocab_size=vocab_size)) is not None:
                    raise wrong_id(str(file.path), position + wrong, int(ids[wrong]), vocab_size=vocab_size)
    return digest.hexdigest()


def _ranges(tokens: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    if whole or tokens <= 3 * SAMPLE_TOKENS:
        yield 0, tokens
    else:
        for start in (0, (tokens - SAMPLE_TOKENS) // 2, tokens - SAMPLE_TOKENS):
            yield start, start + SAMPLE_TOKENS


def _cut(
    files: Sequence[ForeignFile], tokenizer: TokenizerFacts, *, val_fraction: float
) -> tuple[list[tuple[ForeignFile, int, int]], list[tuple[ForeignFile, int, int]]]:
    """The files before and after the cut, each with its first token and the one after its last.

    The cut is moved behind the next end of a document, if that comes before half of what is held out.
    """
    stream = open_files(files, vocab_size=tokenizer.vocab_size)
    cut = stream.n_tokens - round(stream.n_tokens * val_fraction)
    near = stream.read(cut, min(cut + _READ_TOKENS, cut + (stream.n_tokens - cut) // 2))
    ends = np.flatnonzero(near == tokenizer.eos_id)
    cut += int(ends[0]) + 1 if len(ends) else 0
    starts = [0, *accumulate(file.tokens for file in files)]
    last = bisect_right(starts, cut) - 1
    before = [(file, 0, file.tokens) for file in files[:last]]
    after = [(file, 0, file.tokens) for file in files[last + 1 :]]
    if last < len(files):
        inside = cut - starts[last]
        before += [(files[last], 0, inside)] if inside else []
        after = [(files[last], inside, files[last].tokens), *after]
    return before, after
