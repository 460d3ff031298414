"""The summary counts what a plain count over all documents gives, however they come in batches."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from data_helpers import BYTES, EOS, run
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data import pieces
from smalllm.data.document import Document
from smalllm.data.pieces import Batch, assign_splits, end_documents
from smalllm.data.summary import (
    SUMMARY_NAME,
    Longest,
    Tally,
    count_batch,
    end_open,
    read_summary,
    write_summary,
)
from smalllm.errors import DataError
from smalllm.protocols import Encoded

IS_PARTIAL = np.array([128 <= i < 256 for i in range(257)])


def as_batches(documents: list[list[str]], cuts: list[int], *, closed: bool) -> list[Batch]:
    """The parts of the documents in batches that end at `cuts`; one token per byte."""
    parts = [
        Document(part, f"folder/x:{i}", final=j == len(document) - 1 and (closed or i < len(documents) - 1))
        for i, document in enumerate(documents)
        for j, part in enumerate(document)
    ]
    made = list(assign_splits(parts, val_fraction=0.5, split=None))
    borders = sorted({0, len(made), *(cut for cut in cuts if cut < len(made))})
    batches = []
    for start, stop in pairwise(borders):
        ids = np.frombuffer(b"".join(piece.raw for piece in made[start:stop]), np.uint8)
        counts = np.array([len(piece.raw) for piece in made[start:stop]])
        batches.append(end_documents(made[start:stop], Encoded(ids, counts), tokenizer=BYTES))
    return batches


@given(
    documents=st.lists(st.lists(st.text("aé", max_size=4), min_size=1, max_size=3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 30), max_size=6),
    closed=st.booleans(),
)
def test_counts_do_not_depend_on_batches(documents: list[list[str]], cuts: list[int], closed: bool) -> None:
    tally = Tally()
    for batch in as_batches(documents, cuts, closed=closed):
        tally = count_batch(tally, batch, is_partial=IS_PARTIAL)
    if not closed:
        tally = end_open(tally)
    texts = ["".join(document).encode() for document in documents]
    sizes = [len(text) for text in texts]
    assert tally.documents == len(texts)
    assert tally.text_bytes == sum(sizes)
    assert tally.tokens == sum(sizes) + len(texts)
    assert tally.partial_tokens == sum(byte >= 128 for text in texts for byte in text)
    assert tally.open == Longest()
    if max(sizes):
        index = sizes.index(max(sizes))
        assert tally.longest == Longest(max(sizes), max(sizes), f"x:{index}")
        assert tally.bytes_per_token == 1
        assert tally.partial_share == tally.partial_tokens / sum(sizes)


def test_it_is_written_and_read_back(tmp_path: Path) -> None:
    tally = Tally(3, 40, 50, 2, 5, Longest(30, 40, "a.jsonl:3"))
    write_summary(tmp_path, tally)
    assert read_summary(tmp_path) == tally
    assert set(json.loads((tmp_path / SUMMARY_NAME).read_text())) == {
        "format", "version", "documents", "tokens", "text_bytes", "duplicates", "partial_tokens", "longest",
    }  # fmt: skip
    assert read_summary(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "smalllm-summary", "version": 2}', '"a"'])
def test_a_damaged_one_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / SUMMARY_NAME).write_text(content)
    with pytest.raises(DataError, match=r"summary\.json: not a summary"):
        read_summary(tmp_path)


def test_a_preparation_leaves_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 30)
    documents = [Document(f"é{'x' * (i * 7 % 40)}", f"some/where:{i}") for i in range(60)]
    documents += [Document("y" * 25, "some/where:60", final=False)] * 2
    manifest = run(documents, tmp_path, is_partial=IS_PARTIAL)
    summary = read_summary(tmp_path)
    assert summary is not None
    for name in ("documents", "tokens", "text_bytes"):
        assert getattr(summary, name) == sum(getattr(split, name) for split in manifest.splits.values())
    assert summary.partial_tokens == 120
    assert summary.longest == Longest(50, 50, "where:60")


def test_the_end_token_is_no_part_of_a_character() -> None:
    batch = as_batches([["é"]], [], closed=True)[0]
    assert batch.ids.tolist() == [0xC3, 0xA9, EOS]
    assert count_batch(Tally(), batch, is_partial=IS_PARTIAL).partial_tokens == 2
    everything = np.ones(257, dtype=bool)
    assert count_batch(Tally(), batch, is_partial=everything).partial_tokens == 3  # the partner: it is looked at
