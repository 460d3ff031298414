"""Preparing shards: what is written, where each document goes, and that no interruption changes a byte."""

import errno
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from data_helpers import BYTES, EOS, encode_batch, encoder, run, stories, texts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.data import pieces
from smalllm.data.document import Document
from smalllm.data.prepare import prepare_shards
from smalllm.data.shards import (
    read_manifest,
    verify_shards,
)
from smalllm.data.summary import Tally
from smalllm.errors import ConfigError, DataError


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)


@settings(deadline=None)  # it waits for the disk
@given(
    documents=st.lists(
        st.builds(
            Document,
            text=st.text(st.characters(codec="utf-8"), max_size=12),
            origin=st.just("x"),
            split=st.sampled_from(["train", "val"]),
        ),
        max_size=12,
    ),
    shard_tokens=st.integers(1, 40),
    batch_bytes=st.integers(1, 50),
)
def test_round_trip_and_totals(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], shard_tokens: int, batch_bytes: int
) -> None:
    out = tmp_path_factory.mktemp("data")
    documents = [Document("t", "x", split="train"), *documents, Document("v", "x", split="val")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "BATCH_BYTES", batch_bytes)
        manifest = run(documents, out, shard_tokens=shard_tokens)
    assert manifest == read_manifest(out)
    verify_shards(out, manifest)
    for name, split in manifest.splits.items():
        texts = [document.text for document in documents if document.split == name]
        assert texts_of(out, name) == texts
        assert split.documents == len(texts)
        assert split.text_bytes == sum(len(text.encode()) for text in texts)
        assert split.tokens == split.text_bytes + len(texts)
        assert [file.tokens for file in split.files[:-1]] == [shard_tokens] * (len(split.files) - 1)
        for file in split.files:
            ids = np.fromfile(out / file.name, "<u2")
            assert file.documents == np.count_nonzero(ids == EOS)


def test_files_count_what_ends_in_them(tmp_path: Path) -> None:
    documents = [
        Document("abcdef", "x", split="train"),
        Document("gh", "x", split="train"),
        Document("v", "x", split="val"),
    ]
    files = run(documents, tmp_path, shard_tokens=4).splits["train"].files
    # abcd ef#g h#: the text of a document counts where its last token is.
    assert [(file.tokens, file.documents, file.text_bytes) for file in files] == [
        (4, 0, 0),
        (4, 1, 6),
        (2, 1, 2),
    ]


def test_pieces_are_joined_without_an_end_between(tmp_path: Path) -> None:
    documents = [
        Document("one ", "x", split="val", final=False),
        Document("two ", "x", split="train", final=False),
        Document("three", "x"),
        Document("four", "x", split="train"),
        Document("five", "x", split="train", final=False),
    ]
    manifest = run(documents, tmp_path)
    assert texts_of(tmp_path, "val") == ["one two three"]
    assert texts_of(tmp_path, "train") == ["four", "five"]  # the end of the stream ends the last one
    assert manifest.splits["train"].documents == 2


def test_split_follows_the_text_alone(tmp_path: Path) -> None:
    documents = stories(200)
    whole = [list(group) for group in by_document(documents)]
    shuffled = random.Random(1).sample(whole, len(whole))
    run(documents, tmp_path / "a", val_fraction=0.3)
    run([piece for group in shuffled for piece in group], tmp_path / "b", val_fraction=0.3)
    run([piece for group in whole[:100] for piece in group], tmp_path / "half", val_fraction=0.3)
    val = set(texts_of(tmp_path / "a", "val"))
    assert val == set(texts_of(tmp_path / "b", "val"))
    assert val > set(texts_of(tmp_path / "half", "val"))
    assert texts_of(tmp_path / "a", "val") != texts_of(tmp_path / "b", "val")  # the partner: the order did change
    assert not val & set(texts_of(tmp_path / "a", "train"))
    assert 40 < len(val) < 80  # 60 expected, with a standard deviation of 6.5
    # A larger fraction only adds.
    run(documents, tmp_path / "larger", val_fraction=0.5)
    assert val < set(texts_of(tmp_path / "larger", "val"))


def by_document(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    for document in documents:
        group.append(document)
        if document.final:
            yield group
            group = []


def test_hash_of_a_known_text() -> None:
    fraction = int(hashlib.sha256(b"hello").hexdigest()[:16], 16) / 2**64
    assert pieces.split_by_hash(b"hello", fraction) == "train"
    assert pieces.split_by_hash(b"hello", np.nextafter(fraction, 1)) == "val"


def test_floor_needs_every_val_document(tmp_path: Path) -> None:
    documents = [
        Document("ab", "x", split="val", log_prob=-1.25),
        Document("c", "x", split="train"),
        Document("é", "x", split="val", log_prob=-2.5),
    ]
    floor = run(documents, tmp_path / "a").floor
    assert floor is not None
    assert (floor.nats, floor.text_bytes, floor.documents) == (3.75, 4, 2)
    assert run([*documents, Document("d", "x", split="val")], tmp_path / "b").floor is None


def test_progress_counts_what_is_in_the_manifest(tmp_path: Path, small_batches: None) -> None:
    told: list[Tally] = []
    manifest = run(stories(50), tmp_path, on_progress=told.append)
    names = ("documents", "text_bytes", "tokens")
    counts = [tuple(getattr(tally, name) for name in names) for tally in told]
    assert counts == sorted(counts)
    assert len(counts) > 10
    assert counts[-1] == tuple(sum(getattr(s, name) for s in manifest.splits.values()) for name in names)


def test_memory_does_not_grow_with_the_data(tmp_path: Path, small_batches: None) -> None:
    """Documents are taken as they are needed: never much more than one batch is waiting."""
    taken = encoded = furthest = 0

    def documents() -> Iterator[Document]:
        nonlocal taken, furthest
        for document in stories(300):
            taken += 1
            furthest = max(furthest, taken - encoded)
            yield document

    def encode(texts: Sequence[str]) -> list[list[int]]:
        nonlocal encoded
        encoded += len(texts)
        return encode_batch(texts)

    prepare_shards(
        documents,
        encode=encoder(encode),
        tokenizer=BYTES,
        out=tmp_path,
        val_fraction=0.3,
        shard_tokens=64,
        source={},
    )
    assert taken == encoded > 300
    assert furthest <= 30  # a batch is 100 bytes, a piece at least 4 and one more


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Found no documents"):
        run([], tmp_path)
    run(stories(20), tmp_path)  # nothing is left that would stand in the way


def test_an_empty_split_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 20 documents went to val .*0.0.* larger .*val_files"):
        run(stories(20), tmp_path, val_fraction=0.0)
    with pytest.raises(DataError, match=r"None of the 20 documents went to train .* smaller"):
        run(stories(20), tmp_path, val_fraction=1.0)
    assert not list(tmp_path.glob("*.bin"))
    run(stories(20), tmp_path)


def test_ids_the_tokenizer_cannot_have(tmp_path: Path) -> None:
    documents = [Document("a", "first.txt"), Document("b", "second.txt")]
    for wrong in (257, 70_000, -1):
        with pytest.raises(DataError, match=rf"second.txt: the tokenizer gave id {wrong}; .* 257"):
            run(documents, tmp_path, encode_batch=lambda texts, wrong=wrong: [[1], [2, wrong]])


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad\.json: character 1 is half of a surrogate pair"):
        run([Document("a\ud800", "bad.json")], tmp_path)


def test_shards_of_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shard_tokens is 0"):
        run(stories(3), tmp_path, shard_tokens=0)


def test_other_system_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def broken(texts: Sequence[str]) -> list[list[int]]:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output error"):
        run(stories(3), tmp_path, encode_batch=broken)


def test_real_text(tmp_path: Path) -> None:
    folder = os.environ.get("SMALLLM_TEST_DATA")
    if folder is None:
        pytest.skip("SMALLLM_TEST_DATA names no folder with real data")
    path = next((Path(folder) / "tinyshakespeare").iterdir())
    text = path.read_text(encoding="utf-8")
    documents = [Document(part, path.name) for part in text.split("\n\n")]
    manifest = run(documents, tmp_path, val_fraction=0.1, shard_tokens=100_000)
    joined = texts_of(tmp_path, "train") + texts_of(tmp_path, "val")
    assert sorted(joined) == sorted(document.text for document in documents)
    assert sum(split.text_bytes for split in manifest.splits.values()) == sum(len(t.encode()) for t in joined)
