"""What the user names, turned into documents: files, folders, globs, one long text, the Python library.

The readers stream, so a file may be larger than memory. Not here: tokens, shuffling, removal of duplicates,
and who goes to validation where the source does not say (the preparation decides it by hash).
"""

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from smalllm.data.document import Document, Reading
from smalllm.data.packed_files import ARCHIVE_SUFFIXES, read_archive, read_json
from smalllm.data.record_files import read_json_lines, read_parquet
from smalllm.data.text_files import BLOCK_BYTES, find_cut, read_text
from smalllm.errors import DataError

__all__ = [
    "TEXT_SUFFIXES",
    "Document",
    "expand_files",
    "read_files",
    "read_python_library",
    "read_whole_text",
]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".ndjson", ".parquet")
"""What is read from a folder, each also with `.gz` (but for parquet); other files are named by a glob."""

_LINE_BYTES = 4096  # longer ones are not lines to keep whole
_CHARACTER_BYTES = 4

# Tests hold broken source on purpose; the rest is other people's packages, or not code.
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})


def expand_files(patterns: Sequence[str]) -> list[Path]:
    """The files that names, folders and globs stand for, sorted, each once.

    Folders are searched to any depth for `TEXT_SUFFIXES`; hidden files and folders and empty files are passed
    over. A glob takes every file it matches, whatever its suffix.

    Raises:
        DataError: a pattern matches nothing, or a folder holds no text files.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))
        if path.is_file():
            found.add(path)
            continue
        if path.is_dir():
            files = [file for file in path.rglob("*") if _is_text_file(file, folder=path)]
            missing = f"the folder {pattern} holds no text files; expected {', '.join(TEXT_SUFFIXES)}"
        else:
            matches = map(Path, glob.glob(str(path), recursive=True))
            files = [file for file in matches if file.is_file() and file.stat().st_size > 0]
            missing = f"{pattern} matches no file with anything in it; expected files, folders or globs"
        if not files:
            raise DataError(f"{missing}. Name the files, or a glob such as '{path.parent / '*.txt'}'")
        found.update(files)
    return sorted(found)


def read_files(
    files: Sequence[Path],
    *,
    separator: str | None,
    text_column: str = "text",
    split: str | None = None,
    reading: Reading | None = None,
) -> Iterator[Document]:
    """The documents of text, JSON Lines and Parquet files, in order, told apart by suffix.

    Args:
        files: `.jsonl` or `.ndjson`, `.json`, `.parquet`, else UTF-8 text; `.gz` on top, but for Parquet; or
            `.tar.gz` archives of such files.
        separator: what stands between the documents of a text file, `<|endoftext|>` for instance; newlines
            around it belong to neither. None makes each text file one document.
        text_column: the JSON key or Parquet column that holds the text.
        split: train or val, passed on.
        reading: told how far it has come, file by file; what it was told before stays.

    Raises:
        DataError: a file that is missing, empty, damaged, not UTF-8 or without that column, and where.
    """
    for path in files:
        n_documents = 0
        for document in _read_file(path, separator=separator, text_column=text_column, reading=reading):
            yield document if split is None else replace(document, split=split)
            n_documents += 1
        if reading is not None:
            reading.before_bytes, reading.file_bytes = reading.before_bytes + path.stat().st_size, 0
        if n_documents == 0:
            raise DataError(f"{path} holds no text; expected at least one document. Remove it from the files")


def read_whole_text(path: Path, *, val_fraction: float, reading: Reading | None = None) -> Iterator[Document]:
    """One text without document boundaries: its first part to train on, the last `val_fraction` to validate.

    The cut is after the last newline before that point, or between two characters where there is none near: within a
    line of `_LINE_BYTES`, or as many bytes as are held out.

    Args:
        path: a UTF-8 text file.
        val_fraction: share of the bytes that goes to validation, from 0 to below 1.
        reading: told how far it has come.

    Raises:
        DataError: the file is missing, empty, packed, binary or not UTF-8, and where.
    """
    end_bytes = _size_bytes(path)
    if path.suffix == ".gz":
        raise DataError(f"{path} is packed; expected plain text, which can be cut by size. Unpack it: gunzip {path}")
    cut_bytes = _cut_bytes(path, end_bytes, val_fraction) if val_fraction else end_bytes
    n_documents = 0
    for split, start, stop in (("train", 0, cut_bytes), ("val", cut_bytes, end_bytes)):
        for document in read_text(path, separator=None, start_bytes=start, stop_bytes=stop, reading=reading):
            n_documents += 1
            yield replace(document, split=split)
    if n_documents == 0:
        raise DataError(f"{path} holds nothing but newlines; expected text. Name another file")


def read_python_library() -> Iterator[Document]:
    """The `.py` files of the running Python's standard library: real text that every machine has.

    Sorted by relative path, one document per file, without tests and installed packages. Another version of
    Python gives another text.

    Raises:
        DataError: this Python came without the source of its library.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.py"))
    n_documents = 0
    for file in files:
        if _NOT_LIBRARY.intersection(file.parts):
            continue
        try:
            text = (folder / file).read_bytes().decode("utf-8")
        except (UnicodeDecodeError, OSError):
            continue  # a module in another encoding, or one this user may not read: any large part will do
        if text.strip() and "\0" not in text:
            yield Document(text, f"python/{file.as_posix()}")
            n_documents += 1
    if n_documents == 0:
        raise DataError(
            f"no .py files in {folder}: this Python came without the source of its library. "
            "Use --data.source files with --data.files"
        )


def _read_file(path: Path, *, separator: str | None, text_column: str, reading: Reading | None) -> Iterator[Document]:
    _size_bytes(path)
    if path.name.endswith(ARCHIVE_SUFFIXES):
        return read_archive(
            path, lambda member: _read_file(member, separator=separator, text_column=text_column, reading=None)
        )
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".jsonl", ".ndjson"):
        return read_json_lines(path, text_column=text_column, reading=reading)
    if suffix == ".json":
        return read_json(path, text_column=text_column)
    if suffix == ".parquet":
        return read_parquet(path, text_column=text_column, reading=reading)
    return read_text(path, separator=separator, reading=reading)


def _cut_bytes(path: Path, end_bytes: int, val_fraction: float) -> int:
    held_out_bytes = round(end_bytes * val_fraction)
    at_bytes = end_bytes - held_out_bytes
    near_bytes = max(_CHARACTER_BYTES, min(_LINE_BYTES, at_bytes // 2), held_out_bytes)
    return find_cut(path, at_bytes=at_bytes, block_bytes=min(BLOCK_BYTES, near_bytes))


def _size_bytes(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check --data.files") from error
    if size_bytes == 0:
        raise DataError(f"{path} is empty; expected text. Remove it from the files, or fetch it again")
    return size_bytes


def _is_text_file(file: Path, *, folder: Path) -> bool:
    name = file.name.removesuffix(".gz") if not file.name.endswith(".parquet.gz") else ""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return name.endswith(TEXT_SUFFIXES) and not hidden and file.is_file() and file.stat().st_size > 0
