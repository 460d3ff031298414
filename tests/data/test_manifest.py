"""The manifest: what was written is read back, and every edit is refused by the name of its key."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_helpers import make
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.data.shards import (
    read_manifest,
)
from smalllm.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path, train=list(range(10)), val=[7, 8, 9])
    return tmp_path


def edit(path: Path, keys: list[str | int], value: Any) -> None:
    """Set one value in the manifest; `...` deletes the key."""
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (["format"], "other", "format"),
        (["version"], 2, "version is 2; this smalllm reads up to 1. Upgrade"),
        (["version"], "1", "version"),
        (["dtype"], "uint32", "dtype"),
        (["dtype"], ..., "dtype is missing"),
        (["extra"], 1, "extra is unknown"),
        (["source"], [], "source"),
        (["tokenizer", "vocab_size"], 300.0, "tokenizer.vocab_size"),
        (["tokenizer", "vocab_size"], True, "tokenizer.vocab_size"),
        (["tokenizer", "eos_id"], 300, "tokenizer.eos_id"),
        (["tokenizer", "name"], "x", "tokenizer.name is unknown"),
        (["floor", "nats"], None, "floor.nats"),
        (["floor"], {}, "floor.nats is missing"),
        (["splits", "val"], ..., "splits.val is missing"),
        (["splits", "test"], {}, "splits.test is unknown"),
        (["splits", "train", "tokens"], 11, "splits.train.tokens is 11; expected 10"),
        (["splits", "train", "files", 1, "tokens"], 3, "splits.train.tokens is 10; expected 9"),
        (["splits", "train", "files", 1, "tokens"], -4, r"splits.train.files\[1\].tokens"),
        (["splits", "train", "files", 1, "tokens"], 0, r"splits.train.files\[1\].tokens"),
        (["splits", "train", "files", 2], ..., "splits.train.tokens"),
        (["splits", "train", "files", 0, "name"], "../secret.bin", r"splits.train.files\[0\].name"),
        (["splits", "train", "files", 0, "sha256"], ..., r"splits.train.files\[0\].sha256 is missing"),
        (["splits", "val", "text_bytes"], 4, "splits.val.text_bytes"),
        (["splits", "val", "documents"], 0, "splits.val.documents"),
    ],
)
def test_edited_manifest_is_refused_by_key(data: Path, keys: list[str | int], value: Any, named: str) -> None:
    read_manifest(data)  # the partner: unedited, it is accepted
    edit(data / "manifest.json", keys, value)
    with pytest.raises(DataError, match=f"key {named}"):
        read_manifest(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "smalllm-shards"}', "\x00"])
def test_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@settings(deadline=None)  # it waits for the disk
@given(st.binary(max_size=40))
def test_wild_manifest_bytes_are_a_data_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    directory = tmp_path_factory.mktemp("wild")
    (directory / "manifest.json").write_bytes(raw)
    with pytest.raises(DataError):
        read_manifest(directory)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="smalllm prepare"):
        read_manifest(tmp_path / "absent")
    (tmp_path / ".prepare.json").write_text("{}")
    with pytest.raises(DataError, match="not finished"):
        read_manifest(tmp_path)
