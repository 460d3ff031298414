"""Plain text files as documents, read in blocks: memory does not grow with the file.

Bytes are UTF-8; a byte order mark at the start is dropped and nothing else in the text changes, not even
Windows newlines. Not here: JSON Lines and Parquet (record_files.py).
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from smalllm.data.document import Document, Reading
from smalllm.errors import DataError

BLOCK_BYTES = 1 << 20
MAX_PART_CHARACTERS = 4_000_000
"""A longer document comes in parts."""

_NEWLINES = "\r\n"
_CONVERT = "Expected UTF-8 text; remove the file, or convert it: iconv -f ENCODING -t UTF-8 FILE"


def read_text(
    path: Path,
    *,
    separator: str | None,
    start_bytes: int = 0,
    stop_bytes: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    max_part_characters: int = MAX_PART_CHARACTERS,
    reading: Reading | None = None,
) -> Iterator[Document]:
    """The documents of one text file; `.gz` is unpacked.

    Args:
        path: the file.
        separator: what stands between documents; None makes the file one document, kept to the last newline.
        start_bytes: where to begin.
        stop_bytes: where to end; None reads to the end of the file.
        block_bytes: how much is read at a time.
        max_part_characters: a longer document comes in parts, `final=False` on all but the last.
        reading: told how far it has come.

    Raises:
        DataError: the file cannot be read, is damaged, binary or not UTF-8, and at which byte.
    """
    name = origin_name(path)
    n_decoded = n_given = position_bytes = 0

    def blocks() -> Iterator[str]:
        nonlocal n_decoded, position_bytes
        for text, at_bytes in _decoded(path, start_bytes, stop_bytes, block_bytes):
            n_decoded, position_bytes = n_decoded + len(text), at_bytes
            yield text

    for number, text, final in split_documents(blocks(), separator=separator, max_part_characters=max_part_characters):
        if reading is not None:
            # Of the block in hand, what has been given away: a short text is not the whole block.
            n_given += len(text) + len(separator or "")
            reading.file_bytes = start_bytes + (position_bytes - start_bytes) * min(n_given, n_decoded) // n_decoded
        yield Document(text, name if separator is None else f"{name}:{number}", final=final)


def split_documents(
    blocks: Iterator[str], *, separator: str | None, max_part_characters: int
) -> Iterator[tuple[int, str, bool]]:
    r"""Cut a stream of text at a separator, exactly as `text.split(separator)` cuts the whole.

    With a separator, the newlines around a document are stripped. Documents of nothing but newlines are left
    out, but counted.

    Args:
        blocks: the text, in pieces of any size.
        separator: what stands between documents, or None.
        max_part_characters: a longer document comes in parts, cut before a run of newlines where it has one.

    Yields:
        Number of the document from 1, a part of its text, and whether it is the last part.
    """
    number, document = 1, _Parts(max_part_characters, strip=separator is not None)
    buffer = ""
    # What is kept back could be the beginning of a separator that the next block completes.
    n_kept = len(separator) - 1 if separator else 0
    for block in blocks:
        buffer += block
        if separator:
            *whole, buffer = buffer.split(separator)
            for text in whole:
                yield from ((number, *part) for part in document.add(text))
                yield from ((number, *part) for part in document.end())
                number += 1
        settled = max(0, len(buffer) - n_kept)
        yield from ((number, *part) for part in document.add(buffer[:settled]))
        buffer = buffer[settled:]
    yield from ((number, *part) for part in document.add(buffer))
    yield from ((number, *part) for part in document.end())


def cut_document(document: Document, *, max_part_characters: int = MAX_PART_CHARACTERS) -> Iterator[Document]:
    """A document as itself, or in parts where it is too long; nothing if it holds nothing but newlines."""
    if len(document.text) <= max_part_characters:
        if document.text.strip(_NEWLINES):
            yield document
        return
    parts = split_documents(iter([document.text]), separator=None, max_part_characters=max_part_characters)
    yield from (replace(document, text=text, final=final) for _, text, final in parts)


def find_cut(path: Path, *, at_bytes: int, block_bytes: int = BLOCK_BYTES) -> int:
    """The last byte offset up to `at_bytes` that follows a newline, or else that begins a character."""
    with open_data(path) as file:
        start = max(0, at_bytes - block_bytes)
        file.seek(start)
        before = file.read(at_bytes - start)
        after = file.read(1)
    if (newline := before.rfind(b"\n")) >= 0:
        return start + newline + 1
    while before and after and after[0] & 0xC0 == 0x80:  # a UTF-8 continuation byte
        before, after = before[:-1], before[-1:]
    return start + len(before)


@contextmanager
def open_data(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """Open a file for reading, unpacked where it ends in `.gz`; what goes wrong becomes a `DataError`."""
    position_bytes = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            try:
                yield file
            finally:
                position_bytes = file.tell()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} is not a whole gzip file (after byte {position_bytes} of its text: {error}); "
            "fetch or pack it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check --data.files") from error


def position_on_disk(file: gzip.GzipFile | BufferedReader) -> int:
    """How far an open file has been read [bytes of the file as it lies on disk, unpacked or not]."""
    raw: Any = file.fileobj if isinstance(file, gzip.GzipFile) else file
    position: int = raw.tell()
    return position


def origin_name(path: Path) -> str:
    """`folder/file` of a path, for messages that go into data directories: never absolute."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


class _Parts:
    """Collects one document at a time and gives away, as `(text, final)`, what is too much to hold.

    A part is held until more of its document is known, since only the last one is final.
    """

    def __init__(self, max_characters: int, *, strip: bool) -> None:
        self._max_characters = max_characters
        self._strip = strip
        self._held: str | None = None
        self._blocks: list[str] = []
        self._n_characters = 0

    def add(self, text: str) -> Iterator[tuple[str, bool]]:
        """Take in more of the document; yield the parts that are known not to be its last."""
        self._blocks.append(text)
        self._n_characters += len(text)
        if self._n_characters <= self._max_characters:
            return
        rest = "".join(self._blocks)
        if self._strip and self._held is None:
            rest = rest.lstrip(_NEWLINES)
        while len(rest) > self._max_characters and (cut := _cut_position(rest, self._max_characters)):
            if self._held is not None:
                yield self._held, False
            self._held, rest = rest[:cut], rest[cut:]
        self._blocks, self._n_characters = [rest], len(rest)

    def end(self) -> Iterator[tuple[str, bool]]:
        """Yield what is left of the document, its last part last, and be ready for the next document."""
        held, rest = self._held, "".join(self._blocks)
        self._held, self._blocks, self._n_characters = None, [], 0
        if self._strip:
            rest = rest.strip(_NEWLINES) if held is None else rest.rstrip(_NEWLINES)
        if held is not None and rest.strip(_NEWLINES):
            yield held, False
            yield rest, True
        elif held is not None or rest.strip(_NEWLINES):
            yield (held or "") + rest, True


def _cut_position(text: str, limit: int) -> int:
    """Where to cut within `limit` characters: before the last run of newlines, which may have to be stripped.

    Without one it is `limit` itself. Leading newlines stay with what follows; 0 says that nothing does yet.
    """
    newline = max(text.rfind(character, 0, limit) for character in _NEWLINES)
    if cut := len(text[: newline + 1].rstrip(_NEWLINES)):
        return cut
    n_leading = len(text) - len(text.lstrip(_NEWLINES))
    return 0 if n_leading == len(text) else max(limit, n_leading + 1)


def _decoded(path: Path, start_bytes: int, stop_bytes: int | None, block_bytes: int) -> Iterator[tuple[str, int]]:
    """Blocks of text, and how far the file as it lies on disk has been read after each [bytes]."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position_bytes = start_bytes
    with open_data(path) as file:
        file.seek(start_bytes)
        at_end = False
        while not at_end:
            left_bytes = block_bytes if stop_bytes is None else stop_bytes - position_bytes
            block = file.read(min(block_bytes, left_bytes))
            at_end = not block
            if (zero := block.find(b"\0")) >= 0:
                raise DataError(f"{path} is not text: byte {position_bytes + zero} is zero. {_CONVERT}")
            n_pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=at_end)
            except UnicodeDecodeError as error:
                at = position_bytes - n_pending + error.start
                raise DataError(f"{path} is not UTF-8: byte {at} ({error.reason}). {_CONVERT}") from error
            yield text.removeprefix("\ufeff") if position_bytes == 0 else text, position_on_disk(file)
            position_bytes += len(block)
