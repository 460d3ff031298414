"""JSON Lines and Parquet files as documents, a record at a time. Not here: plain text (text_files.py)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smalllm.data.document import Document, Reading
from smalllm.data.text_files import cut_document, open_data, origin_name, position_on_disk
from smalllm.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

BLOCK_BYTES = 1 << 20
ROWS_AT_ONCE = 256
_TOLD_EVERY = 16  # lines


def read_json_lines(path: Path, *, text_column: str, reading: Reading | None = None) -> Iterator[Document]:
    """The text of each line's JSON object; blank lines are passed over, `.gz` is unpacked.

    Raises:
        DataError: the file cannot be read or is damaged, a line is not a JSON object in UTF-8, has no such key or no
            text there; and which line.
    """
    name = origin_name(path)
    with open_data(path) as file:
        for number, line in enumerate(file, start=1):
            if reading is not None and number % _TOLD_EVERY == 1:
                reading.file_bytes = position_on_disk(file)
            if line.strip():
                text = _text_of_line(line, where=f"{path}:{number}", text_column=text_column)
                yield from cut_document(Document(text, f"{name}:{number}"))


def read_parquet(path: Path, *, text_column: str, reading: Reading | None = None) -> Iterator[Document]:
    """The text column, about a megabyte at a time; nothing else of the file is unpacked.

    Raises:
        DataError: the file is damaged, has no such column, or a value is missing or not UTF-8; and which row (from 1).
    """
    import pyarrow
    import pyarrow.parquet

    name, number, size_bytes = origin_name(path), 0, path.stat().st_size
    try:
        # So a column is read page by page; as it is by default, all that a row group has of it.
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            _check_column(file.schema_arrow, path=path, text_column=text_column)
            n_all = file.metadata.num_rows
            for group in range(file.num_row_groups):
                n_rows = _rows_at_once(file.metadata.row_group(group), text_column=text_column)
                for batch in file.iter_batches(n_rows, row_groups=[group], columns=[text_column]):
                    for text in _texts_of(batch.column(0), path=path, n_before=number, text_column=text_column):
                        number += 1
                        if reading is not None:
                            reading.file_bytes = size_bytes * number // n_all
                        yield from cut_document(Document(text, f"{name}:{number}"))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a whole Parquet file (after row {number}: {error}); fetch or write it again"
        ) from error


def _rows_at_once(group: "pyarrow.parquet.RowGroupMetaData", *, text_column: str) -> int:
    """How many rows hold about BLOCK_BYTES of text."""
    leaves = [group.column(i) for i in range(group.num_columns)]
    size_bytes = sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema == text_column)
    return max(1, min(ROWS_AT_ONCE, BLOCK_BYTES * group.num_rows // max(1, size_bytes)))


def _texts_of(column: "pyarrow.Array", *, path: Path, n_before: int, text_column: str) -> Iterator[str]:
    for number, value in enumerate(column, start=n_before + 1):
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, row {number}: {text_column!r} is not UTF-8 (byte {error.start} of it: {error.reason}); "
                "correct or remove it"
            ) from error
        if text is None:
            raise _not_text(None, where=f"{path}, row {number}", text_column=text_column)
        yield text


def _text_of_line(line: bytes, *, where: str, text_column: str) -> str:
    try:
        record = json.loads(line.decode("utf-8-sig" if where.endswith(":1") else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: byte {error.start} of the line. Convert the file to UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); expected one object per line. Correct the line") from error
    return text_of_record(record, where=where, text_column=text_column)


def text_of_record(record: object, *, where: str, text_column: str) -> str:
    """The text in one JSON value.

    Raises:
        DataError: not an object, or no text under that key.
    """
    if not isinstance(record, dict):
        raise DataError(f'{where} is not a JSON object; expected one like {{"{text_column}": "…"}}. Correct it')
    if text_column not in record:
        raise DataError(
            f"{where} has no {text_column!r}, only {', '.join(map(repr, record)) or 'nothing'}; "
            "name the one with the text: --data.text_column NAME"
        )
    text = record[text_column]
    if not isinstance(text, str):
        raise _not_text(text, where=where, text_column=text_column)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the text holds half a surrogate pair, {text[error.start]!a}, which is no character; "
            "expected whole characters. Correct or remove it"
        ) from error
    return text


def _check_column(schema: "pyarrow.Schema", *, path: Path, text_column: str) -> None:
    import pyarrow

    if text_column not in schema.names:
        raise DataError(
            f"{path} has no column {text_column!r}, only {', '.join(map(repr, schema.names))}; "
            "name the one with the text: --data.text_column NAME"
        )
    kind = schema.field(text_column).type
    value_kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if value_kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise DataError(
            f"{path}: the column {text_column!r} holds {kind}, not strings; "
            "name the one with the text: --data.text_column NAME"
        )


def _not_text(value: object, *, where: str, text_column: str) -> DataError:
    found = "null" if value is None else type(value).__name__
    return DataError(f"{where}: {text_column!r} is {found}, not a string; correct or remove it")
