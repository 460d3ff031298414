"""Data sets in forms that smalllm does not read itself (CSV, Arrow, Zstandard, …), through the
`datasets` library, which streams them.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from smalllm.data.document import Document
from smalllm.data.hub import HubSet
from smalllm.data.hub_layout import nearest
from smalllm.data.text_files import cut_document
from smalllm.errors import DataError


def read_with_datasets(
    hub: HubSet, files: Sequence[str], *, text_column: str, split: str | None = None
) -> Iterator[Document]:
    """The documents of some files of a data set, in order, a row at a time; nothing is kept on disk.

    Args:
        hub: the data set.
        files: their names in it.
        text_column: the column that holds the text.
        split: train or val, passed on.

    Raises:
        DataError: the library cannot read them, or a row has no text in that column.
    """
    import datasets

    where = str(hub.folder or hub.repo_id)
    number = 0
    try:
        rows = datasets.load_dataset(
            where,
            data_files={"train": list(files)},
            revision=None if hub.folder else hub.revision,
            split="train",
            streaming=True,
        )
        with closing(iter(rows)) as iterator:  # or its files stay open until they are collected
            for number, row in enumerate(iterator, start=1):
                text = _text(row, where=f"{hub.name}, row {number}", text_column=text_column)
                for document in cut_document(Document(text, f"{hub.name}:{number}")):
                    yield document if split is None else replace(document, split=split)
    except DataError:
        raise
    except Exception as error:  # each form has a reader with errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{hub.name}: the datasets library could not read {files[0]} (after row {number:,}: {reason}). "
            "Convert the files to Parquet or JSON Lines, or choose others with data.hub_files"
        ) from error


def _text(row: dict[str, Any], *, where: str, text_column: str) -> str:
    if text_column not in row:
        raise DataError(f"{where} has no column {text_column!r}; {nearest(text_column, row)}. Set data.text_column")
    text = row[text_column]
    if not isinstance(text, str):
        raise DataError(f"{where}: the column {text_column!r} holds {type(text).__name__}, not text")
    return text
