"""Reads shards: token ids in headerless little-endian files, mapped into memory and seen as one long
sequence.

Opening costs one `stat` and one `mmap` per file, whatever their size; pages are read when they are needed.
What the files should be is in the manifest (`manifest.py`, whose names are offered here too). Writing is
`prepare.py`; files of other programs are recognised in `foreign.py` and read here.
"""

import errno
import hashlib
import mmap
import os
import resource
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.data.manifest import (
    Floor,
    Layout,
    Manifest,
    ShardFile,
    Split,
    TokenizerFacts,
    read_manifest,
    write_manifest,
)
from smalllm.errors import DataError

__all__ = [
    "Floor",
    "Manifest",
    "ShardFile",
    "Split",
    "TokenStream",
    "TokenizerFacts",
    "check_sizes",
    "open_split",
    "read_manifest",
    "verify_files",
    "verify_shards",
    "write_manifest",
]

_OTHER_FILES = 128  # that a program opens beside its shards
_ADVICE = "Copy it again from where it is whole, or delete the directory and prepare the data again."


class TokenStream:
    """Named arrays of token ids, read as one sequence of `n_tokens` positions.

    The arrays may be mapped files of any integer type, of smalllm or of others. Nothing is read before it is
    asked for, and every id that is read is checked to be in 0 … vocab_size - 1. `first_tokens` are the offsets at
    which the arrays begin in their files, where that is not 0; they are counted in messages only.
    """

    def __init__(
        self, parts: Sequence[tuple[str, NDArray[Any]]], *, vocab_size: int, first_tokens: Sequence[int] | None = None
    ) -> None:
        self.vocab_size = vocab_size
        self._names = [name for name, _ in parts]
        self._first_tokens = first_tokens or [0] * len(parts)
        # Plain views: slicing a numpy.memmap costs several times as much as slicing the ndarray under it.
        self._arrays = [array.view(np.ndarray) for _, array in parts]
        self._starts: list[int] = [0, *accumulate(len(array) for array in self._arrays)]
        self._dtype = np.result_type(*self._arrays).newbyteorder("=") if parts else np.dtype(np.uint16)

    @property
    def n_tokens(self) -> int:
        """How many token ids there are in all parts."""
        return self._starts[-1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """A copy of the ids at positions start … stop - 1 [stop - start], in their stored integer type.

        Raises:
            IndexError: the range is not within 0 … n_tokens.
            DataError: an id is not below vocab_size; the message names the file and the offset in it.
        """
        row: NDArray[Any] = self._rows(np.array([start]), stop - start, self._dtype)[0]
        return row

    def read_rows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """`length` ids from each of `starts` [n]: rows [n, length] that may overlap and cross files.

        Raises:
            IndexError, DataError: as for `read`.
        """
        return self._rows(starts, length, np.dtype(np.int64))

    def where(self, position: int) -> tuple[str, int]:
        """The name of the file that holds `position`, and the offset in it [tokens]."""
        part = bisect_right(self._starts, position) - 1
        if not 0 <= part < len(self._names):
            raise IndexError(f"position {position} is outside the {self.n_tokens} tokens there are")
        return self._names[part], position - self._starts[part] + self._first_tokens[part]

    def _rows(self, starts: NDArray[np.int64], length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        if len(starts) and (length < 0 or starts.min() < 0 or starts.max() + length > self.n_tokens):
            raise IndexError(
                f"{length} tokens from position {starts.min()} … {starts.max()}: not within {self.n_tokens}"
            )
        rows = np.empty((len(starts), length), dtype)
        for row, start in zip(rows, starts.tolist(), strict=True):
            self._copy(start, row)
        if (wrong := first_beyond(rows, vocab_size=self.vocab_size)) is not None:
            row_index, column = divmod(wrong, length)
            name, offset = self.where(int(starts[row_index]) + column)
            raise wrong_id(name, offset, int(rows[row_index, column]), vocab_size=self.vocab_size)
        return rows

    def _copy(self, start: int, row: NDArray[Any]) -> None:
        part = bisect_right(self._starts, start) - 1
        done = 0
        while done < len(row):
            offset = start + done - self._starts[part]
            chunk = self._arrays[part][offset : offset + len(row) - done]
            row[done : done + len(chunk)] = chunk
            done += len(chunk)
            part += 1


def first_beyond(ids: NDArray[Any], *, vocab_size: int) -> int | None:
    """The index, as if flat, of the first id that is not in 0 … vocab_size - 1; None if there is none."""
    # Seen as unsigned numbers, negative ids are too large as well: one comparison finds both.
    unsigned = ids.view(ids.dtype.str.replace("i", "u"))
    if not ids.size or unsigned.max() < vocab_size:
        return None
    return int((unsigned >= vocab_size).argmax())


def wrong_id(name: str, offset: int, token_id: int, *, vocab_size: int) -> DataError:
    """What to raise for an id that the tokenizer does not have."""
    return DataError(
        f"{name}: token {offset} is {token_id}; expected ids below the tokenizer's vocab_size, {vocab_size}. The file "
        "is damaged, or another tokenizer made it: prepare the data again, or name that tokenizer."
    )


def open_split(directory: Path, manifest: Manifest, split: str) -> TokenStream:
    """Map the files of one split, "train" or "val", after a look at their sizes.

    Raises:
        DataError: a file is missing or has another size than the manifest says.
    """
    files = manifest.splits[split].files
    vocab_size = manifest.tokenizer.vocab_size
    if manifest.layouts is None:
        check_sizes(directory, files, dtype=manifest.dtype)
        layouts: Sequence[Layout] = [Layout(np.dtype(manifest.dtype).newbyteorder("<").str)] * len(files)
    else:
        layouts = manifest.layouts[split]
    allow_files(len(files))
    parts = [
        (file.name, map_tokens(directory / file.name, layout, tokens=file.tokens))
        for file, layout in zip(files, layouts, strict=True)
    ]
    return TokenStream(parts, vocab_size=vocab_size, first_tokens=[layout.first_token for layout in layouts])


def allow_files(n_files: int) -> None:
    """Let this process have so many more files open: a mapped one stays open, and systems allow 256 or 1,024 at first.

    Beyond what the system lets it ask for, `map_tokens` says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS lets have less than it says
        needed = len(os.listdir("/dev/fd")) + n_files + _OTHER_FILES
        if soft != resource.RLIM_INFINITY and needed > soft:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def map_tokens(path: Path, layout: Layout, *, tokens: int) -> NDArray[Any]:
    """The ids of a file, or a part of them, mapped into memory [tokens].

    Raises:
        DataError: the file is gone, or is shorter than it was said to be, or too many are open.
    """
    dtype = np.dtype(layout.dtype)
    offset_bytes = layout.header_bytes + layout.first_token * dtype.itemsize
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Windows are read in a random order. Without this the kernel reads megabytes around each of them.
        mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype, count=tokens, offset=offset_bytes)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: the file was changed while it was in use ({error}). {_ADVICE}") from error
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise DataError(
            f"{path}: {error.strerror}, and a mapped file stays open. Allow more: ulimit -n 10240"
        ) from error


def check_sizes(directory: Path, files: Sequence[ShardFile], *, dtype: str) -> None:
    """Compare the size of every file with the tokens it should hold; reads none of them.

    Raises:
        DataError: a file is missing, too short or too long.
    """
    for file in files:
        path = directory / file.name
        expected_bytes = file.tokens * np.dtype(dtype).itemsize
        found_bytes = path.stat().st_size if path.is_file() else None
        if found_bytes != expected_bytes:
            found = "is missing" if found_bytes is None else f"has {found_bytes:,} bytes"
            raise DataError(
                f"{path}: the file {found}; expected {expected_bytes:,} bytes ({file.tokens:,} tokens of "
                f"{dtype}). {_ADVICE}"
            )


def verify_shards(directory: Path, manifest: Manifest) -> None:
    """Hash every shard and compare with the manifest. Reads all of the data.

    Raises:
        DataError: a file is missing, or is not byte for byte what was written; the first such file is named.
    """
    for split in manifest.splits.values():
        verify_files(directory, split.files, dtype=manifest.dtype)


def verify_files(directory: Path, files: Sequence[ShardFile], *, dtype: str) -> None:
    """Compare size and sha256 of every file with what they should be.

    Raises:
        DataError: as for `verify_shards`.
    """
    check_sizes(directory, files, dtype=dtype)
    for file in files:
        with (directory / file.name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.sha256:
            raise DataError(
                f"{directory / file.name}: the file was altered: its sha256 is {found}; "
                f"expected {file.sha256}. {_ADVICE}"
            )
