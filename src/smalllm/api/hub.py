"""`source = "hub"`: from the fields of `[data]` to files on this machine, or to documents."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from smalllm.config import DataConfig
from smalllm.data.document import Document, Reading
from smalllm.data.hub import HubSet, fetch_file, fetch_from_hub, open_set, read_card
from smalllm.data.hub_datasets import read_with_datasets
from smalllm.data.hub_layout import Choice, choose_files
from smalllm.data.sources import read_files
from smalllm.errors import ConfigError

RECORD_SUFFIXES = (
    ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".parquet", ".tar.gz", ".tgz",
)  # fmt: skip
"""Endings of files that hold many documents; a text file without a separator is one."""
_TOKENIZER_FILES = {"huggingface": ("tokenizer.json",), "gpt2": ("vocab.json", "merges.txt")}
_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HubText:
    """The files that hold the text, none of them fetched yet.

    Attributes:
        hub: the data set.
        choice: which of its files.
        facts: what a manifest says of them.
        by_datasets: they are read by the `datasets` library.
    """

    hub: HubSet
    choice: Choice
    facts: dict[str, Any]
    by_datasets: bool


def find_text(data: DataConfig, notice: Notice) -> HubText:
    """Find out which files hold the text that a configuration asks for.

    Raises:
        ConfigError: `val_files`, which are none of the data set's.
        DataError: no such data set, configuration, split or file, or no way to them.
    """
    assert data.hub_name is not None
    if data.val_files:
        raise ConfigError(f"data.val_files = {list(data.val_files)}: of a data set on the Hub, name data.hub_val_files")
    hub = open_set(data.hub_name, revision=data.hub_revision, notice=notice)
    card = {} if data.hub_files else read_card(hub, notice=notice)
    choice = choose_files(hub.sizes, card, data, where=hub.name)
    by_datasets = choice.foreign or data.hub_reader == "datasets"
    if choice.foreign:
        notice(
            f"{hub.name}: read by the datasets library, as smalllm does not read {Path(choice.train[0]).suffix} files"
        )
    if data.shards is not None and len(choice.train) < data.shards:
        notice(f"data.shards = {data.shards}: {hub.name} has {len(choice.train)} files here; using these")
    facts: dict[str, Any] = {"kind": "hub", "name": hub.name}
    if data.hub_config is not None and not data.hub_files:
        facts["config"] = data.hub_config
    facts["files"] = [{"name": name, "bytes": hub.sizes[name]} for name in choice.train]
    if choice.val:
        facts["val_files"] = [{"name": name, "bytes": hub.sizes[name]} for name in choice.val]
    facts["text_column"] = data.text_column
    if by_datasets:
        facts["reader"] = "datasets"
    elif data.separator is not None:
        facts["separator"] = data.separator
    return HubText(hub, choice, facts, by_datasets)


def fetch_all(text: HubText, notice: Notice) -> tuple[list[Path], list[Path]]:
    """The files for training and for validation, on this machine; those that are not yet are downloaded in turn.

    Raises:
        DataError: one of them could not be had.
    """
    names = [*text.choice.train, *text.choice.val]
    paths = []
    for number, name in enumerate(names, start=1):
        if text.hub.folder is None:
            notice(f"file {number} of {len(names)}: {name} ({text.hub.sizes[name] / 1e6:,.0f} MB)")
        paths.append(fetch_file(text.hub, name, notice=notice))
    return paths[: len(text.choice.train)], paths[len(text.choice.train) :]


def read_train(text: HubText, data: DataConfig, notice: Notice, index: int) -> Iterable[Document]:
    """The documents of training file `index`, fetched now if need be; all files are one to `datasets`."""
    if text.by_datasets:
        return read_with_datasets(text.hub, text.choice.train, text_column=data.text_column)
    path = fetch_file(text.hub, text.choice.train[index], notice=notice)
    return read_files([path], separator=data.separator, text_column=data.text_column)


def read_val(text: HubText, data: DataConfig, notice: Notice) -> Iterable[Document]:
    """The documents of the set's own validation files, fetched now if need be."""
    if text.by_datasets:
        return read_with_datasets(text.hub, text.choice.val, text_column=data.text_column)
    paths = [fetch_file(text.hub, name, notice=notice) for name in text.choice.val]
    return read_files(paths, separator=data.separator, text_column=data.text_column)


def documents_in_turn(text: HubText, data: DataConfig, notice: Notice) -> Callable[..., Iterable[Document]]:
    """All documents. The first file is fetched now, so that reading it can be timed, each other when its turn comes."""
    splits = {"train" if text.choice.val else None: text.choice.train, "val": text.choice.val}
    fetch_file(text.hub, text.choice.train[0], notice=notice)

    def read(reading: Reading | None = None) -> Iterator[Document]:
        if reading is not None:
            reading.total_bytes = sum(text.hub.sizes[name] for names in splits.values() for name in names)
        for split, names in splits.items():
            for name in names:
                path = fetch_file(text.hub, name, notice=notice)
                yield from read_files(
                    [path], separator=data.separator, text_column=data.text_column, split=split, reading=reading
                )

    return read


def documents_by_datasets(text: HubText, data: DataConfig) -> Callable[..., Iterable[Document]]:
    """All documents, as `datasets` reads them; those of the set's own validation files say so."""
    train, val, column = text.choice.train, text.choice.val, data.text_column
    if not val:
        return lambda _=None: read_with_datasets(text.hub, train, text_column=column)
    return lambda _=None: chain(
        read_with_datasets(text.hub, train, text_column=column, split="train"),
        read_with_datasets(text.hub, val, text_column=column, split="val"),
    )


def tokenizer_path(kind: str, path: str | None, notice: Notice) -> Path | None:
    """Where the files of `[tokenizer] path` are: as given, or fetched where it names a model on the Hub.

    Raises:
        DataError: they could not be had.
    """
    if path is None or kind not in _TOKENIZER_FILES or Path(path).exists() or not _MODEL_NAME.fullmatch(path):
        return None if path is None else Path(path)
    files = [fetch_from_hub(path, name, repo_type="model", notice=notice) for name in _TOKENIZER_FILES[kind]]
    return files[0].parent
