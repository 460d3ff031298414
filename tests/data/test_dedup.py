"""Exact duplicates are dropped, the first one in the source's order stays, and no interruption changes which."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from data_helpers import Interrupted, contents, encode_batch, interrupting, repeated, run, stories, texts_of
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data import pieces
from smalllm.data.dedup import SEEN_NAME, Deduplicator
from smalllm.data.document import Document
from smalllm.data.manifest import read_manifest
from smalllm.data.pieces import Piece, assign_splits
from smalllm.data.summary import read_summary
from smalllm.errors import DataError

SHORT = st.text("ab", max_size=2)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)


def as_pieces(documents: Sequence[Sequence[str]]) -> list[Piece]:
    """Documents, each a list of its parts."""
    parts = [
        Document(part, f"x:{i}", split="train", final=j == len(document) - 1)
        for i, document in enumerate(documents)
        for j, part in enumerate(document)
    ]
    return list(assign_splits(parts, val_fraction=0.0, split=None))


def kept(directory: Path, given_pieces: list[Piece], *, dropped: int = 0, inside: bool = False) -> list[Piece]:
    seen = Deduplicator(directory, dropped=dropped)
    try:
        return list(seen.drop(given_pieces, inside=inside))
    finally:
        seen.commit()
        seen.close()


@given(documents=st.lists(st.lists(SHORT, min_size=1, max_size=3), max_size=20))
def test_first_of_equal_documents_stays(tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]]) -> None:
    given_pieces = as_pieces(documents)
    found = kept(tmp_path_factory.mktemp("seen"), given_pieces)
    texts: dict[str, int] = {}
    for i, document in enumerate(documents):
        texts.setdefault("".join(document), i)
    first = {f"x:{i}" for i in texts.values()}
    assert [p._replace(dropped=0) for p in found] == [p for p in given_pieces if p.origin in first]
    counts = [p.dropped for p in found]
    assert counts == sorted(counts) and (counts or [0])[-1] <= len(documents) - len(texts)


@given(
    documents=st.lists(st.lists(SHORT, min_size=1, max_size=3), min_size=1, max_size=15),
    data=st.data(),
)
def test_continued_anywhere_it_keeps_the_same(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]], data: st.DataObject
) -> None:
    """A process that is stopped may have seen more than what is recorded as done."""
    given_pieces = as_pieces(documents)
    expected = kept(tmp_path_factory.mktemp("whole"), given_pieces)
    directory = tmp_path_factory.mktemp("cut")
    n_done = data.draw(st.integers(0, len(expected)))
    n_read = data.draw(st.integers(n_done, len(expected)))
    seen = Deduplicator(directory)
    results = seen.drop(given_pieces, inside=False)
    done = [next(results) for _ in range(n_read)][:n_done]
    seen.commit()
    seen.close()
    last = done[-1] if done else None
    rest = given_pieces[last.number + 1 :] if last else given_pieces
    found = kept(directory, rest, dropped=last.dropped if last else 0, inside=last is not None and not last.final)
    assert done + found == expected


def test_what_was_not_committed_is_forgotten(tmp_path: Path) -> None:
    given_pieces = as_pieces([["a"], ["b"], ["a"]])
    seen = Deduplicator(tmp_path)
    assert len(list(seen.drop(given_pieces, inside=False))) == 2
    seen.close()
    assert len(kept(tmp_path, given_pieces)) == 2
    assert len(kept(tmp_path, [p._replace(number=p.number + 3) for p in given_pieces])) == 0  # the partner


def test_prepared_without_duplicates(tmp_path: Path, small_batches: None) -> None:
    documents = repeated(120)
    run(documents, tmp_path / "all")
    manifest = run(documents, tmp_path / "once", dedup=True)
    all_texts = texts_of(tmp_path / "all", "train") + texts_of(tmp_path / "all", "val")
    texts = texts_of(tmp_path / "once", "train") + texts_of(tmp_path / "once", "val")
    assert sorted(texts) == sorted(set(all_texts)) and len(texts) < len(all_texts)
    train = texts_of(tmp_path / "all", "train")
    assert texts_of(tmp_path / "once", "train") == list(dict.fromkeys(train))  # the first, in order
    summary = read_summary(tmp_path / "once")
    assert summary is not None and summary.duplicates == len(all_texts) - len(texts)
    assert manifest.source["dedup"] is True and "dedup" not in read_manifest(tmp_path / "all").source
    assert not list((tmp_path / "once").glob(f"{SEEN_NAME}*"))


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("shard_tokens", [150, 10_000])
def test_any_interruption_drops_the_same(tmp_path: Path, small_batches: None, shard_tokens: int, saved: bool) -> None:
    documents = repeated(60)
    expected = run(documents, tmp_path / "whole", dedup=True, shard_tokens=shard_tokens)
    n = 0
    while True:
        out = tmp_path / f"cut-{n}"
        try:
            run(documents, out, dedup=True, shard_tokens=shard_tokens, **interrupting(n + 1, saved=saved))
            break
        except Interrupted:
            n += 2
        assert run(documents, out, dedup=True, shard_tokens=shard_tokens) == expected
        assert contents(out) == contents(tmp_path / "whole")
    assert n > 10


def test_a_forgotten_record_is_noticed_in_the_bytes(tmp_path: Path, small_batches: None) -> None:
    """The partner of the restart test: without what was seen, duplicates come through."""
    documents = repeated(60)
    expected = run(documents, tmp_path / "whole", dedup=True)

    def failing(texts: Sequence[str]) -> list[list[int]]:
        if (tmp_path / "cut" / "train-00003.bin").exists():
            raise Interrupted
        return encode_batch(texts)

    with pytest.raises(Interrupted):
        run(documents, tmp_path / "cut", dedup=True, encode_batch=failing)
    (tmp_path / "cut" / SEEN_NAME).unlink()
    assert run(documents, tmp_path / "cut", dedup=True) != expected


def test_dedup_is_part_of_what_was_asked(tmp_path: Path) -> None:
    run(stories(20), tmp_path, dedup=True)
    with pytest.raises(DataError, match=r"source\.dedup is true, asked for null"):
        run(stories(20), tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path, small_batches: None) -> None:
    with pytest.raises(Interrupted):
        run(stories(40), tmp_path, dedup=True, encode_batch=lambda texts: (_ for _ in ()).throw(Interrupted))
    (tmp_path / SEEN_NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match=rf"{SEEN_NAME}: the record of texts .* not a database"):
        run(stories(40), tmp_path, dedup=True)


def test_validation_text_that_is_trained_on_is_dropped(tmp_path: Path) -> None:
    documents = [Document(t, "x", split="train") for t in "abc"] + [Document(t, "x", split="val") for t in "bcd"]
    run(documents, tmp_path, dedup=True)
    assert texts_of(tmp_path, "train") == ["a", "b", "c"] and texts_of(tmp_path, "val") == ["d"]
