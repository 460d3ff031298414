"""The order of a stream and its windows, without training: complete, disjoint, exact from any position."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smalllm.data import feed as feed_module
from smalllm.data import stream
from smalllm.data.document import Document
from smalllm.data.feed import FeedBatches, WindowFeed
from smalllm.data.manifest import TokenizerFacts
from smalllm.data.pieces import Piece, split_by_hash
from smalllm.data.stream import Position, Texts, encode_block, file_order, read_blocks
from smalllm.errors import DataError
from smalllm.protocols import Encoded

BYTES = TokenizerFacts("bytes", "0" * 64, vocab_size=257, eos_id=256)


def encode_bytes(texts: Sequence[str]) -> Encoded:
    parts = [text.encode() for text in texts]
    ids = np.frombuffer(b"".join(parts), np.uint8)
    return Encoded(ids, np.array([len(part) for part in parts], np.int64))


def encode(pieces: list[Piece]) -> NDArray:
    return encode_block(pieces, encode=encode_bytes, tokenizer=BYTES)


def files_of(sizes: list[int]) -> list[list[Document]]:
    return [
        [Document(f"file {i} document {j} {'x' * (7 * j % 23)}", f"{i}:{j}") for j in range(n)]
        for i, n in enumerate(sizes)
    ]


def texts_of(sizes: list[int], **changes: object) -> Texts:
    files = files_of(sizes)
    fields = {"val_fraction": 0.2, "shuffle_buffer": 4, "seed": 1, **changes}
    return Texts(n_files=len(files), open_file=lambda i: iter(files[i]), **fields)  # type: ignore[arg-type]


def epoch_of(texts: Texts, epoch: int) -> list[str]:
    """The documents that a rank gets in an epoch, in order."""
    blocks = takewhile(lambda found: found[0].epoch == epoch, read_blocks(texts, Position(epoch)))
    return [piece.raw.decode() for _, pieces in blocks for piece in pieces]


def training_texts(sizes: list[int], val_fraction: float = 0.2) -> list[str]:
    every = [document.text for file in files_of(sizes) for document in file]
    return [text for text in every if split_by_hash(text.encode(), val_fraction) == "train"]


def a_feed(texts: Texts, start: Position | None = None, *, context_length: int = 8, n_workers: int = 1) -> WindowFeed:
    return WindowFeed(
        lambda position: read_blocks(texts, position),
        encode,
        start=start or Position(),
        context_length=context_length,
        n_workers=n_workers,
    )


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    n_ranks=st.integers(1, 4),
    buffer=st.integers(1, 9),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_ranks_are_disjoint_and_complete(sizes: list[int], n_ranks: int, buffer: int, epoch: int, seed: int) -> None:
    expected = training_texts(sizes)
    if not expected:
        return
    ranks = [texts_of(sizes, rank=r, n_ranks=n_ranks, shuffle_buffer=buffer, seed=seed) for r in range(n_ranks)]
    found = [epoch_of(rank, epoch) for rank in ranks]
    assert Counter(text for part in found for text in part) == Counter(expected)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sizes = [20, 30, 25]
    first, second, other = (epoch_of(texts_of(sizes, seed=s), e) for s, e in ((1, 0), (1, 1), (2, 0)))
    assert first != second and first != other and sorted(first) == sorted(second) == sorted(other)
    assert first != training_texts(sizes) and epoch_of(texts_of(sizes), 0) == first
    orders = {tuple(file_order(texts_of([1] * 6), epoch)) for epoch in range(20)}
    assert len(orders) > 15 and all(sorted(order) == list(range(6)) for order in orders)


def test_one_document_at_a_time_is_not_shuffled_within_a_file() -> None:
    assert epoch_of(texts_of([30], shuffle_buffer=1), 0) == training_texts([30])


def test_a_held_out_document_never_comes() -> None:
    sizes = [40, 40]
    held_out = {d.text for f in files_of(sizes) for d in f} - set(training_texts(sizes))
    assert held_out and not held_out & {text for epoch in range(3) for text in epoch_of(texts_of(sizes), epoch)}
    assert held_out <= set(epoch_of(texts_of(sizes, val_fraction=0.0), 0))  # the partner: nothing is held out


def test_a_block_of_long_documents_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", 50)
    texts = texts_of([40], shuffle_buffer=1000, val_fraction=0.0)
    blocks = list(takewhile(lambda found: found[0].epoch == 0, read_blocks(texts, Position())))
    assert max(sum(len(piece.raw) for piece in pieces) for _, pieces in blocks) < 50 + 45 and len(blocks) > 10


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no documents to train on: every one is held out"):
        next(read_blocks(texts_of([3], val_fraction=0.999999), Position()))


def expected_windows(texts: Texts, n: int, length: int) -> NDArray:
    """The definition, without threads and positions."""
    tokens = np.empty(0, np.int64)
    blocks = read_blocks(texts, Position())
    while len(tokens) < n * length + 1:
        tokens = np.concatenate([tokens, encode(next(blocks)[1])])
    return np.stack([tokens[i * length : i * length + length + 1] for i in range(n)])


@pytest.fixture(params=[1, 60, 1 << 18])
def part_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one document, of a few, and of a whole block."""
    monkeypatch.setattr(feed_module, "PART_BYTES", request.param)


@pytest.mark.usefixtures("part_bytes")
@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize("length", [3, 8, 200])
def test_windows_are_cut_without_a_gap(n_workers: int, length: int) -> None:
    texts = texts_of([15, 9, 21], shuffle_buffer=3)
    feed = a_feed(texts, context_length=length, n_workers=n_workers)
    rows = np.concatenate([feed.take(n) for n in (1, 4, 2, 13)])
    feed.close()
    assert rows.dtype == np.int64 and np.array_equal(rows, expected_windows(texts, 20, length))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_before=st.integers(0, 60),
    length=st.integers(1, 40),
    buffer=st.integers(1, 7),
    n_ranks=st.integers(1, 3),
    workers=st.integers(1, 3),
)
@pytest.mark.usefixtures("part_bytes")
def test_a_position_is_all_that_a_resume_needs(
    n_before: int, length: int, buffer: int, n_ranks: int, workers: int
) -> None:
    texts = texts_of([15, 9, 21], shuffle_buffer=buffer, rank=n_ranks - 1, n_ranks=n_ranks)
    whole = a_feed(texts, context_length=length)
    if n_before:
        whole.take(n_before)
    there = whole.position
    resumed = a_feed(texts, there, context_length=length, n_workers=workers)
    assert np.array_equal(whole.take(7), resumed.take(7)) and whole.position == resumed.position
    whole.close()
    resumed.close()


def test_another_position_gives_other_windows() -> None:
    """The partner: the comparison above can fail."""
    texts = texts_of([15, 9, 21])
    one, other = a_feed(texts, Position(token=1)), a_feed(texts, Position(token=2))
    assert not np.array_equal(one.take(5), other.take(5))
    one.close()
    other.close()


def test_a_text_that_changed_is_noticed() -> None:
    feed = a_feed(texts_of([5], shuffle_buffer=1), Position(token=10_000))
    with pytest.raises(DataError, match=r"lacks the last [\d,]+ of the 10,000 tokens .* the text has changed"):
        feed.take(1)
    feed.close()


def test_an_error_of_the_reader_comes_out_where_windows_are_taken() -> None:
    def broken(i: int) -> Iterator[Document]:
        yield from files_of([50])[0]
        raise DataError("the file breaks off")

    texts = Texts(n_files=1, open_file=broken, val_fraction=0.0, shuffle_buffer=4, seed=1)
    feed = a_feed(texts)
    with pytest.raises(DataError, match="the file breaks off"):
        feed.take(10_000)
    with pytest.raises(DataError, match="the file breaks off"):
        feed.take(10_000)
    feed.close()


def test_an_error_of_the_tokenizer_comes_out_too() -> None:
    def fail(_: list[Piece]) -> NDArray:
        raise DataError("no such id")

    texts = texts_of([20])
    feed = WindowFeed(lambda p: read_blocks(texts, p), fail, start=Position(), context_length=4)
    with pytest.raises(DataError, match="no such id"):
        feed.take(1)
    feed.close()


def test_it_reads_ahead_but_not_far() -> None:
    n_read = 0

    def counted(position: Position) -> Iterator[tuple[Position, list[Piece]]]:
        nonlocal n_read
        for block in read_blocks(texts_of([500]), position):
            n_read += 1
            yield block

    feed = WindowFeed(counted, encode, start=Position(), context_length=8, n_workers=2)
    feed.take(1)
    time.sleep(0.3)
    assert 2 <= n_read <= feed_module.N_AHEAD + 2 + 3
    feed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("smalllm-")]


def test_waiting_is_counted() -> None:
    def slow(pieces: list[Piece]) -> NDArray:
        time.sleep(0.05)
        return encode(pieces)

    texts = texts_of([50])
    feed = WindowFeed(lambda p: read_blocks(texts, p), slow, start=Position(), context_length=8)
    feed.take(1)
    assert 0.04 < feed.waited_s < 5
    feed.close()


def test_steps_go_forward_and_the_current_one_may_be_looked_at_again() -> None:
    texts = texts_of([30])
    feed = a_feed(texts)
    batches = FeedBatches(feed, cursor=12, n=3)
    start = batches.position(12)
    first = batches.rows(12)
    assert batches.rows(12) is first and batches.position(12) == start == Position()
    after = batches.position(15)
    second = batches.rows(15)
    assert batches.position(15) == after and np.array_equal(
        np.concatenate([first, second]), expected_windows(texts, 6, 8)
    )
    for wrong in (12, 21, 16):
        with pytest.raises(ValueError, match="forward only"):
            batches.rows(wrong)
        with pytest.raises(ValueError, match="forward only"):
            FeedBatches(feed, cursor=15, n=3).position(wrong)
    feed.close()


def test_long_documents_come_in_pieces_with_an_end_each() -> None:
    parts = [Document("one ", "a", final=False), Document("two", "a"), Document("three", "b")]
    texts = Texts(n_files=1, open_file=lambda i: iter(parts), val_fraction=0.0, shuffle_buffer=9, seed=1)
    ((_, pieces),) = islice(read_blocks(texts, Position()), 1)
    assert sorted(p.raw.decode() for p in pieces) == ["one ", "three", "two"] and (encode(pieces) == 256).sum() == 3


def test_files_are_opened_when_their_turn_comes(tmp_path: Path) -> None:
    opened: list[int] = []
    files = files_of([10, 10, 10])

    def open_file(i: int) -> Iterator[Document]:
        opened.append(i)
        return iter(files[i])

    texts = Texts(n_files=3, open_file=open_file, val_fraction=0.0, shuffle_buffer=5, seed=1)
    list(islice(read_blocks(texts, Position(0, 2)), 1))
    assert opened == file_order(texts, 0)[2:]
