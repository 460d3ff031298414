"""`data.files`: from the fields of `[data]` to files on this machine, and what a manifest says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalllm.api.hub import RECORD_SUFFIXES
from smalllm.config import DataConfig
from smalllm.data.sources import expand_files
from smalllm.errors import DataError


def choose_files(data: DataConfig) -> tuple[list[Path], list[Path]]:
    """The files to train on and those held out for validation; none is in both.

    Raises:
        DataError: a name matches nothing, or every file is held out.
    """
    files, val_files = expand_files(data.files), expand_files(data.val_files)
    held_out = {file.resolve() for file in val_files}
    train = [file for file in files if file.resolve() not in held_out]
    if files and not train:
        raise DataError(
            f"data.files = {list(data.files)}: all {len(files):,} are data.val_files too, so none is left to train on"
        )
    return train, val_files


def is_one_text(data: DataConfig, files: Sequence[Path]) -> bool:
    """Whether the files are a single text, without documents in it."""
    return len(files) == 1 and data.separator is None and not files[0].name.endswith(RECORD_SUFFIXES)


def file_facts(data: DataConfig, files: Sequence[Path], val_files: Sequence[Path]) -> dict[str, Any]:
    """What tells this text from another one, and is the same on every machine: names and sizes, and how it is read."""
    facts: dict[str, Any] = {"kind": "files", "files": _names_and_sizes(files)}
    if data.separator is not None:
        facts["separator"] = data.separator
    if data.text_column != DataConfig().text_column:
        facts["text_column"] = data.text_column
    if val_files:
        facts["val_files"] = _names_and_sizes(val_files)
    return facts


def _names_and_sizes(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [{"name": file.name, "bytes": file.stat().st_size} for file in files]
