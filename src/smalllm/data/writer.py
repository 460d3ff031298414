"""Writes the shards of one split while they are being made, so that the work can stop anywhere and be taken
up again.

Private to `prepare.py`. What is kept between two processes is `SplitState`; a file that is longer than the
state says was written after the state was saved, and is cut back.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from smalllm.data.manifest import SPLITS, ShardFile
from smalllm.data.pieces import Batch
from smalllm.data.shards import check_sizes
from smalllm.errors import DataError

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SplitState:
    """The finished files of a split, and how far the file in hand has come."""

    files: tuple[ShardFile, ...] = ()
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0


class SplitWriter:
    """Appends token ids to `SPLIT-00000.bin`, `SPLIT-00001.bin`, …, of at most `shard_tokens` tokens each.

    A file is finished when the token comes that no longer fits in it, so that what belongs to its last token
    is counted before. Close it when done or on an error; `finish` first if all tokens have come.

    Raises:
        DataError: the files in `directory` are not those that `state` describes.
    """

    def __init__(self, directory: Path, split: str, *, dtype: str, shard_tokens: int, state: SplitState) -> None:
        self._directory = directory
        self._split = split
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_tokens = shard_tokens
        self._files = list(state.files)
        self._tokens, self._documents, self._text_bytes = state.tokens, state.documents, state.text_bytes
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        check_sizes(directory, state.files, dtype=dtype)
        if state.tokens:
            self._reopen()

    @property
    def totals(self) -> tuple[int, int, int]:
        """Documents, bytes of text and tokens so far."""
        return (
            self._documents + sum(file.documents for file in self._files),
            self._text_bytes + sum(file.text_bytes for file in self._files),
            self._tokens + sum(file.tokens for file in self._files),
        )

    @property
    def n_finished(self) -> int:
        """How many files are finished."""
        return len(self._files)

    def add(self, token_ids: NDArray[Any], *, documents: int, text_bytes: int) -> None:
        """Append ids; count `documents` and `text_bytes` in the file that takes the last of them."""
        while len(token_ids):
            if self._tokens == self._shard_tokens:
                self.finish()
            if self._file is None:
                self._file = self._path().open("wb")
            taken = token_ids[: self._shard_tokens - self._tokens]
            raw = taken.astype(self._dtype, copy=False).tobytes()
            self._file.write(raw)
            self._hash.update(raw)
            self._tokens += len(taken)
            token_ids = token_ids[len(taken) :]
        self._documents += documents
        self._text_bytes += text_bytes

    def add_batch(self, batch: Batch) -> None:
        """Append the ids of pieces, as `add` would one after the other."""
        text_bytes = [len(piece.raw) for piece in batch.pieces]
        if self._tokens % self._shard_tokens + len(batch.ids) <= self._shard_tokens:
            # All of it ends in one file: no need to look at each piece, which for small documents takes most time.
            self.add(batch.ids, documents=sum(p.final for p in batch.pieces), text_bytes=sum(text_bytes))
            return
        stop = 0
        for piece, length, size_bytes in zip(batch.pieces, batch.lengths.tolist(), text_bytes, strict=True):
            start, stop = stop, stop + length
            self.add(batch.ids[start:stop], documents=piece.final, text_bytes=size_bytes)

    def finish(self) -> tuple[ShardFile, ...]:
        """Finish the file in hand, if there is one, and return all files."""
        if self._file is not None:
            self.sync()
            self.close()
            digest = self._hash.hexdigest()
            self._files.append(
                ShardFile(self._path().name, self._tokens, self._documents, self._text_bytes, sha256=digest)
            )
            self._hash = hashlib.sha256()
            self._tokens = self._documents = self._text_bytes = 0
        return tuple(self._files)

    def sync(self) -> SplitState:
        """Wait until the disk has every token that was added; the state that takes up from here."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return SplitState(tuple(self._files), self._tokens, self._documents, self._text_bytes)

    def close(self) -> None:
        """Let go of the file in hand."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _path(self) -> Path:
        return self._directory / f"{self._split}-{len(self._files):05d}.bin"

    def _reopen(self) -> None:
        """Cut the file in hand back to its state, and hash what stays: a running hash cannot be stored."""
        path, expected_bytes = self._path(), self._tokens * self._dtype.itemsize
        found_bytes = path.stat().st_size if path.is_file() else 0
        if found_bytes < expected_bytes:
            raise DataError(
                f"{path}: found {found_bytes:,} bytes; the preparation that is to be continued had written "
                f"{expected_bytes:,}. Delete {self._directory} and prepare the data again."
            )
        self._file = path.open("r+b")
        self._file.truncate(expected_bytes)
        while block := self._file.read(_READ_BYTES):
            self._hash.update(block)


def shard_paths(directory: Path) -> list[Path]:
    """Every file in `directory` that is named like a shard."""
    return sorted(path for split in SPLITS for path in directory.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9]*.bin"))


def remove_shards(directory: Path, *, keep: Mapping[str, SplitState] | None = None) -> None:
    """Delete the shards in `directory`, except those that the states in `keep` count on."""
    kept = {
        f"{split}-{i:05d}.bin"
        for split, state in (keep or {}).items()
        for i in range(len(state.files) + (state.tokens > 0))
    }
    for path in shard_paths(directory):
        if path.name not in kept:
            path.unlink()
