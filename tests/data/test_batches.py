"""Which tokens go where: each once per epoch, in an order that depends on the seed and the cursor alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data import batches
from smalllm.data.batches import document_windows, micro_batch_ids, n_windows, read_windows, window_ids
from smalllm.data.shards import (
    TokenStream,
)
from smalllm.errors import DataError


def stream_of(ids: list[int], *, part_tokens: int = 7) -> TokenStream:
    parts = [(f"part-{i}", np.array(ids[i : i + part_tokens], np.uint16)) for i in range(0, len(ids), part_tokens)]
    return TokenStream(parts, vocab_size=65_536)


def test_n_windows() -> None:
    assert [n_windows(n, 4) for n in (5, 8, 9, 12, 13)] == [1, 1, 2, 2, 3]
    for n in (0, 1, 4):
        with pytest.raises(DataError, match=rf"val split has {n} tokens; .* needs 5\. Use a smaller context_length"):
            n_windows(n, 4, split="val")


@given(n_tokens=st.integers(2, 200), context_length=st.integers(1, 30), part_tokens=st.integers(1, 50))
def test_every_token_is_a_target_once_per_epoch(n_tokens: int, context_length: int, part_tokens: int) -> None:
    if n_tokens <= context_length:
        return
    stream = stream_of(list(range(n_tokens)), part_tokens=part_tokens)
    n = n_windows(n_tokens, context_length)
    rows = read_windows(stream, window_ids(5, 2 * n, n, n_windows=n), context_length)
    assert rows.shape == (n, context_length + 1)
    assert rows.dtype == np.int64
    assert sorted(rows[:, 1:].ravel().tolist()) == list(range(1, n * context_length + 1))
    assert np.array_equal(rows[:, 1:], rows[:, :-1] + 1)
    assert n_tokens - 1 - n * context_length < context_length  # the tail left out is shorter than a window


@given(
    seed=st.integers(0, 1000),
    cursor=st.integers(0, 1000),
    n=st.integers(1, 60),
    division=st.sampled_from([(r, b, 24 // (r * b)) for r in (1, 2, 3, 4, 6) for b in (1, 2, 4) if 24 % (r * b) == 0]),
)
def test_windows_of_a_step_do_not_depend_on_ranks_or_micro_batches(
    seed: int, cursor: int, n: int, division: tuple[int, int, int]
) -> None:
    n_ranks, micro_batch_size, n_micro_steps = division
    parts = [
        micro_batch_ids(
            seed,
            cursor,
            rank=rank,
            n_ranks=n_ranks,
            micro_batch_size=micro_batch_size,
            micro_step=micro_step,
            n_windows=n,
        )
        for micro_step in range(n_micro_steps)
        for rank in range(n_ranks)
    ]
    assert all(len(part) == micro_batch_size for part in parts)
    # In this order even the sequence is that of one rank with one micro-batch.
    assert np.array_equal(np.concatenate(parts), window_ids(seed, cursor, 24, n_windows=n))


def test_ranks_share_nothing() -> None:
    kwargs = {"n_ranks": 4, "micro_batch_size": 8, "micro_step": 0, "n_windows": 1000}
    taken = [set(micro_batch_ids(0, 0, rank=rank, **kwargs).tolist()) for rank in range(4)]
    assert len(set().union(*taken)) == 32


@given(
    ids=st.lists(st.integers(0, 3), max_size=60),
    context_length=st.integers(1, 70),
    part_tokens=st.integers(1, 20),
    scan_tokens=st.integers(1, 30),
)
def test_document_windows(ids: list[int], context_length: int, part_tokens: int, scan_tokens: int) -> None:
    stream = stream_of(ids, part_tokens=part_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_SCAN_TOKENS", scan_tokens)
        found = list(document_windows(stream, 0, context_length=context_length))
    assert [i for start, stop in found for i in range(start, stop)] == list(range(len(ids)))
    assert all(0 < stop - start <= context_length for start, stop in found)
    ends = {stop for _, stop in found}
    assert {i + 1 for i, token in enumerate(ids) if token == 0} <= ends
    if context_length >= len(ids):
        assert all(0 not in ids[start : stop - 1] for start, stop in found)
        assert all(ids[stop - 1] == 0 or stop == len(ids) for _, stop in found)


def test_document_windows_counts_documents_not_pieces() -> None:
    stream = stream_of([1, 1, 1, 0, 2, 0, 3, 3])
    assert list(document_windows(stream, 0, context_length=3)) == [(0, 3), (3, 4), (4, 6), (6, 8)]
    assert list(document_windows(stream, 0, context_length=3, max_documents=1)) == [(0, 3), (3, 4)]
    assert list(document_windows(stream, 0, context_length=3, max_documents=2)) == [(0, 3), (3, 4), (4, 6)]
    assert list(document_windows(stream, 0, context_length=3, max_documents=0)) == []
