"""Files that hold many records in one value or many files in one: JSON arrays and `.tar.gz` archives.

Neither is ever whole in memory: an array is read object by object, an archive is unpacked member by member.
"""

import codecs
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from smalllm.data.document import Document
from smalllm.data.record_files import text_of_record
from smalllm.data.text_files import cut_document, open_data, origin_name
from smalllm.errors import DataError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
_MEMBER_SUFFIXES = (".json", ".jsonl", ".ndjson", ".txt", ".text", ".md", ".parquet")
_BLOCK_CHARACTERS = 1 << 20
_MAX_OBJECT_CHARACTERS = 1 << 26
_GAP = re.compile(r"[\s,]*")


def read_json(path: Path, *, text_column: str) -> Iterator[Document]:
    """The text of each object of a JSON array, or of objects one after the other; `.gz` is unpacked.

    Raises:
        DataError: not JSON, cut off, or an object without text under that key; and which one (from 1).
    """
    name = origin_name(path)
    for number, record in enumerate(_objects(path), start=1):
        text = text_of_record(record, where=f"{path}, object {number}", text_column=text_column)
        yield from cut_document(Document(text, f"{name}:{number}"))


def read_archive(path: Path, read_file: Callable[[Path], Iterable[Document]]) -> Iterator[Document]:
    """The documents of the text, JSON and Parquet files in a `.tar.gz`, in the archive's order.

    Args:
        path: the archive.
        read_file: reads one unpacked member, which is gone afterwards.

    Raises:
        DataError: the archive is damaged or holds no such file, or what `read_file` raises.
    """
    n_members = 0
    try:
        with tarfile.open(path, "r|gz") as archive, tempfile.TemporaryDirectory(prefix="smalllm-") as folder:
            place = Path(folder, path.name)  # so that a document's origin names the archive
            place.mkdir()
            for member in archive:
                file_name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if member.isreg() and member.size else None
                if content is None or file_name.startswith(".") or not file_name.endswith(_MEMBER_SUFFIXES):
                    continue
                unpacked = place / file_name
                with open(unpacked, "wb") as target:
                    shutil.copyfileobj(content, target)
                yield from read_file(unpacked)
                unpacked.unlink()
                n_members += 1
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .tar.gz archive ({error}); fetch or pack it again") from error
    if n_members == 0:
        raise DataError(f"{path} holds no files of text; expected {', '.join(_MEMBER_SUFFIXES)}")


def _objects(path: Path) -> Iterator[Any]:
    """The values of an array, or one after the other, without ever holding more than one and a block."""
    decode = json.JSONDecoder().raw_decode
    buffer, at, depth, at_end = "", 0, None, False
    with open_data(path) as file:
        reader = codecs.getreader("utf-8-sig")(file)
        while True:
            at = _GAP.match(buffer, at).end()  # type: ignore[union-attr]  # it always matches
            if depth is None and at < len(buffer):
                depth = int(buffer[at] == "[")
                at += depth
                continue
            if at < len(buffer) and depth and buffer[at] == "]":
                return
            if at == len(buffer) and at_end:
                if depth:
                    raise DataError(f"{path} breaks off: its array has no end. Fetch or write it again")
                return
            try:
                value, at = decode(buffer, at)
                yield value
            except (ValueError, RecursionError) as error:
                if at_end or len(buffer) - at > _MAX_OBJECT_CHARACTERS:
                    raise DataError(f"{path} is not JSON ({error}); expected an array of objects") from error
                block = _read(reader, max(_BLOCK_CHARACTERS, len(buffer) - at), path)
                buffer, at, at_end = buffer[at:] + block, 0, not block


def _read(reader: codecs.StreamReader, n_characters: int, path: Path) -> str:
    try:
        return reader.read(n_characters)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Convert the file to UTF-8") from error
