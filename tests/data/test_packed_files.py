"""JSON arrays and archives, read piece by piece: the same documents as from the whole, and every kind of damage."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.data import packed_files
from smalllm.data.packed_files import read_json
from smalllm.data.sources import read_files
from smalllm.errors import DataError

TEXTS = st.lists(st.text(min_size=1).filter(lambda text: text.strip("\r\n")), min_size=1, max_size=8)


def texts_of(*paths: Path, column: str = "text") -> list[str]:
    return [document.text for document in read_files(paths, separator=None, text_column=column)]


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@settings(max_examples=40)
@given(texts=TEXTS, indent=st.sampled_from([None, 1]), ascii_only=st.booleans(), as_array=st.booleans())
def test_json_gives_back_every_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], indent: int | None, ascii_only: bool, as_array: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    records = [{"n": [1, {"]": "}"}], "text": text} for text in texts]
    written = [json.dumps(r, indent=indent, ensure_ascii=ascii_only) for r in ([records] if as_array else records)]
    path.write_text("\n".join(written), encoding="utf-8")
    assert texts_of(path) == texts


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(packed_files, "_BLOCK_CHARACTERS", block)
    texts = ["é" * 50, "a, b", "]", "\U0001f600", "\n\nx"]
    (tmp_path / "a.json").write_text(json.dumps([{"story": t} for t in texts], ensure_ascii=False), encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    assert texts_of(tmp_path / "a.json", tmp_path / "b.json.gz", column="story") == texts * 2


def test_origins_name_the_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff [{"text": "x"},\n {"text": "y"}]', encoding="utf-8")
    assert [d.origin for d in read_json(tmp_path / "a.json", text_column="text")] == [
        f"{tmp_path.name}/a.json:{number}" for number in (1, 2)
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"text": "x"}, {"text": "y"}', "breaks off: its array has no end"),
        ('[{"text": "x"}, {"text": "y', "is not JSON"),
        ('[{"text": "x"} nonsense]', "is not JSON"),
        ('[{"text": "x"}, 3]', r"object 2 is not a JSON object"),
        ('[{"body": "x"}]', r"object 1 has no 'text', only 'body'; name the one with the text: --data\.text_column"),
        ('[{"text": "x"}, {"text": null}]', r"object 2: 'text' is null, not a string"),
        ("[]", "holds no text"),
        ("plain text", "is not JSON"),
    ],
)
def test_what_is_wrong_with_json(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=says):
        texts_of(tmp_path / "a.json")


def test_an_archive(tmp_path: Path) -> None:
    members = {
        "all/data00.json": b'[{"text": "one"}, {"text": "two"}]',
        "all/README": b"not this",
        "all/._data.json": b"nor this",
        "all/empty.txt": b"",
        "more.jsonl": b'{"text": "three"}\n',
        "plain.txt": b"four",
    }
    path = write_archive(tmp_path / "a.tar.gz", members)
    assert texts_of(path) == ["one", "two", "three", "four"]
    origins = [document.origin for document in read_files([path], separator=None)]
    assert origins == [
        "a.tar.gz/data00.json:1",
        "a.tar.gz/data00.json:2",
        "a.tar.gz/more.jsonl:1",
        "a.tar.gz/plain.txt",
    ]


def test_a_name_that_climbs_out_of_the_archive_does_not(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tgz", {"../../climbed.txt": b"inside", "/abs.txt": b"too"})
    assert texts_of(path) == ["inside", "too"] and sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz"]


def test_what_is_wrong_with_an_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar.gz", {"a.txt": b"x" * 100_000, "b.txt": bytes(range(1, 128)) * 1000})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"is not a whole \.tar\.gz archive"):
        texts_of(path)
    (tmp_path / "b.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"is not a whole \.tar\.gz archive"):
        texts_of(tmp_path / "b.tar.gz")
    with pytest.raises(DataError, match="holds no files of text"):
        texts_of(write_archive(tmp_path / "c.tar.gz", {"a.bin": b"x"}))
    with pytest.raises(DataError, match=r"a\.json, object 1 has no 'text'"):
        texts_of(write_archive(tmp_path / "d.tar.gz", {"a.json": b'[{"x": 1}]'}))
