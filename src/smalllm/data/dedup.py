"""Drops documents whose whole text came before, in the order of the source: the first one stays.

What was seen is in an SQLite file beside the shards, 128 bits of each text's sha256 and the number of its piece: memory
does not grow with the data, and a preparation that is continued knows its own documents again by their numbers.
Private to `prepare.py`.
"""

import hashlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from smalllm.data.pieces import Piece
from smalllm.errors import DataError

SEEN_NAME = ".prepare-seen.sqlite"
_INSERT = "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING"
_CACHE_KIB = 64 << 10
# Texts are looked up in groups: each costs a page of the file, unless others need the same one.
_GROUP_BYTES = 1 << 20
_PIECE_BYTES = 64


class Deduplicator:
    """Which texts have come, and how many came again.

    Attributes:
        dropped: how many documents were duplicates so far.
    """

    def __init__(self, directory: Path, *, dropped: int = 0) -> None:
        self.dropped = dropped
        self._path = directory / SEEN_NAME
        self._directory = directory
        self._connection: sqlite3.Connection = self._tried(lambda: sqlite3.connect(self._path))
        self._run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._run("CREATE TABLE IF NOT EXISTS seen (digest BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")

    def drop(self, pieces: Iterable[Piece], *, inside: bool) -> Iterator[Piece]:
        """The pieces of documents that had not come before; `dropped` of each is the count up to it.

        The parts of a long document wait in a file on disk until the last one shows whether it is new.

        Args:
            pieces: from the source, numbered.
            inside: the first ones continue a document that was let through before.
        """
        rest = iter(pieces)
        group: list[Piece] = []
        size_bytes = 0
        for piece in rest:
            if inside or not piece.final:
                yield from self._new_of(group)
                with closing(_Parts(self._directory, piece, rest)) as parts:
                    is_new = inside or self._is_new(parts.digest, piece.number)
                    if is_new:
                        yield from parts.read(dropped=self.dropped)
                self.dropped += not is_new
                inside, group, size_bytes = False, [], 0
                continue
            group.append(piece)
            size_bytes += len(piece.raw) + _PIECE_BYTES
            if size_bytes >= _GROUP_BYTES:
                yield from self._new_of(group)
                group, size_bytes = [], 0
        yield from self._new_of(group)

    def commit(self) -> None:
        """Wait until the disk has every text that was seen."""
        self._tried(self._connection.commit)

    def close(self) -> None:
        """Let go of the file; what was not committed is forgotten."""
        self._connection.close()

    def _new_of(self, group: list[Piece]) -> Iterator[Piece]:
        """Those whole documents of a group whose text is new."""
        # In the order of the keys, and so of the file; of equal texts, the first comes first.
        rows = sorted((_key(hashlib.sha256(piece.raw).digest()), piece.number) for piece in group)
        n_new = self._tried(lambda: self._connection.executemany(_INSERT, rows)).rowcount if rows else 0
        new = None if n_new == len(rows) else {number for key, number in rows if self._number(key) == number}
        for piece in group:
            if new is None or piece.number in new:
                yield piece._replace(dropped=self.dropped) if self.dropped else piece
            else:
                self.dropped += 1

    def _is_new(self, digest: bytes, number: int) -> bool:
        self._run(_INSERT, _key(digest), number)
        return self._number(_key(digest)) == number

    def _number(self, key: bytes) -> int:
        """Of the piece with which a text came first. It is the asker's own where the text is new, and also where an
        earlier process saw it and was stopped before it could save how far it had come.
        """
        found: int = self._run("SELECT number FROM seen WHERE digest = ?", key).fetchone()[0]
        return found

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._tried(lambda: self._connection.execute(statement, values))
        return cursor

    def _tried(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except sqlite3.Error as error:
            raise DataError(
                f"{self._path}: the record of texts seen so far cannot be used ({error}). Where the disk is full, free "
                f"some space and run the same command again: it continues. Else delete {self._directory} and prepare "
                "the data again."
            ) from error


def _key(digest: bytes) -> bytes:
    return digest[:16]


def remove_seen(directory: Path) -> None:
    """Delete the record of texts seen, if there is one."""
    for path in directory.glob(f"{SEEN_NAME}*"):  # a journal may lie beside it
        path.unlink()


class _Parts:
    """The pieces of one document, up to its last, kept in a file without a name."""

    def __init__(self, directory: Path, first: Piece, rest: Iterator[Piece]) -> None:
        hasher = hashlib.sha256()
        self._file: BinaryIO = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self._pieces: list[tuple[Piece, int]] = []
        piece: Piece | None = first
        while piece is not None:
            hasher.update(piece.raw)
            self._file.write(piece.raw)
            self._pieces.append((piece._replace(raw=b""), len(piece.raw)))
            piece = None if piece.final else next(rest, None)
        self.digest = hasher.digest()

    def read(self, *, dropped: int) -> Iterator[Piece]:
        self._file.seek(0)
        for piece, length in self._pieces:
            yield piece._replace(raw=self._file.read(length), dropped=dropped)

    def close(self) -> None:
        self._file.close()
