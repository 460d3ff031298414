"""One document per window: found by number, opened by an end token, cut or padded, each once per epoch."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data import padded
from smalllm.data.batches import window_ids
from smalllm.data.padded import IGNORED, index_documents, read_padded
from smalllm.data.shards import TokenStream
from smalllm.data.windows import Windows, open_windows
from smalllm.errors import DataError

EOS = 0


def stream_of(ids: list[int], *, part_tokens: int = 7) -> TokenStream:
    parts = [(f"part-{i}", np.array(ids[i : i + part_tokens], np.uint16)) for i in range(0, len(ids), part_tokens)]
    return TokenStream(parts, vocab_size=65_536)


def documents_of(ids: list[int]) -> list[list[int]]:
    """Each document with its end token; found with a loop."""
    found: list[list[int]] = [[]]
    for token in ids:
        found[-1].append(token)
        if token == EOS:
            found.append([])
    return found if found[-1] else found[:-1]


def padded_windows(ids: list[int], context_length: int, *, split: str = "train") -> Windows:
    return open_windows(stream_of(ids), packing="padded", context_length=context_length, eos_id=EOS, split=split)


@given(
    ids=st.lists(st.sampled_from([EOS, EOS, 1, 2, 3]), min_size=2, max_size=60).filter(lambda ids: EOS in ids[:-1]),
    context_length=st.integers(1, 9),
    part_tokens=st.integers(1, 20),
    blocks=st.sampled_from([(3, 6), (4, 4), (1, 5), (1 << 14, 1 << 20)]),
)
def test_windows_are_the_documents(
    ids: list[int], context_length: int, part_tokens: int, blocks: tuple[int, int]
) -> None:
    documents = documents_of(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padded, "_BLOCK_TOKENS", blocks[0])
        patch.setattr(padded, "_SCAN_TOKENS", blocks[1])
        index = index_documents(
            stream_of(ids, part_tokens=part_tokens), eos_id=EOS, context_length=context_length, split="val"
        )
        inputs, targets = read_padded(index, np.arange(index.n_documents), context_length)
    assert index.n_documents == len(documents)
    assert index.n_cut == sum(len(d) > context_length for d in documents)
    assert index.n_kept_tokens == sum(min(len(d), context_length) for d in documents) == (targets != IGNORED).sum()
    assert inputs.shape == targets.shape == (len(documents), context_length) and inputs.dtype == np.int64
    for document, given_ids, asked in zip(documents, inputs.tolist(), targets.tolist(), strict=True):
        kept = document[:context_length]
        n_padding = context_length - len(kept)
        assert asked == kept + [IGNORED] * n_padding
        assert given_ids == [EOS, *kept[:-1]] + [EOS] * n_padding


def test_by_hand() -> None:
    windows = padded_windows([5, 6, EOS, EOS, 7, 8, 9, 1, EOS, 2], 3)
    inputs, targets = windows.read(np.array([2, 0, 3, 1]))
    assert inputs.tolist() == [[EOS, 7, 8], [EOS, 5, 6], [EOS, EOS, EOS], [EOS, EOS, EOS]]
    assert targets.tolist() == [[7, 8, 9], [5, 6, EOS], [2, IGNORED, IGNORED], [EOS, IGNORED, IGNORED]]
    assert (windows.n, windows.n_tokens) == (4, 8)
    assert windows.notice == (
        "train: 4 documents, one per window of 3; 33.3% of the positions are padding; "
        "longer than that and cut: 1 (20.0% of all tokens left out)"
    )


def test_every_document_once_per_epoch() -> None:
    ids = [token for number in range(1, 301) for token in [*[number] * (number % 7 + 1), EOS]]
    windows = padded_windows(ids, 5)
    for epoch in (0, 1):
        numbers = window_ids(3, epoch * windows.n, windows.n, n_windows=windows.n)
        firsts = np.concatenate([windows.read(part)[1][:, 0] for part in np.array_split(numbers, 11)])
        assert sorted(firsts.tolist()) == list(range(1, 301)) and firsts.tolist() != list(range(1, 301))


def test_windows_of_a_stream_are_those_of_ever() -> None:
    windows = open_windows(stream_of(list(range(1, 12))), packing="stream", context_length=4, eos_id=EOS)
    inputs, targets = windows.read(np.array([1, 0]))
    assert inputs.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]] and targets.tolist() == [[6, 7, 8, 9], [2, 3, 4, 5]]
    assert (windows.n, windows.n_tokens, windows.notice) == (2, 8, "")


def test_how_many_windows_hold_so_many_tokens() -> None:
    windows = open_windows(stream_of(list(range(1, 102))), packing="stream", context_length=10, eos_id=EOS)
    assert [windows.first(n) for n in (0, 1, 10, 19, 20, 100, 10**9)] == [10, 1, 1, 1, 2, 10, 10]
    windows = padded_windows([1, 2, EOS] * 10, 6)  # three targets each
    assert [windows.first(n) for n in (0, 1, 6, 8, 9, 30, 10**9)] == [10, 1, 2, 2, 3, 10, 10]


@pytest.mark.parametrize(
    ("ids", "split", "problem"),
    [
        ([1, 2, 3, 4], "train", r"The train split has no end token \(id 0\); .*--data.packing stream"),
        ([], "val", "The val split has no end token"),
        ([1, 2, 3, 4, EOS], "train", r"The train split is one document of 5 tokens; .*prepare .*--data\.separator"),
    ],
)
def test_what_cannot_be_laid_into_windows(ids: list[int], split: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        padded_windows(ids, 4, split=split)


def test_one_document_that_fits_or_is_held_out_is_fine() -> None:
    assert padded_windows([1, 2, 3, EOS], 4).n == 1
    assert padded_windows([1, 2, 3, 4, EOS], 4, split="val").n == 1


def test_a_token_that_is_none_is_found() -> None:
    stream = TokenStream([("train-00000.bin", np.array([1, EOS, 900, EOS], np.uint16))], vocab_size=10)
    with pytest.raises(DataError, match=r"train-00000\.bin: token 2 is 900"):
        index_documents(stream, eos_id=EOS, context_length=4)


def test_the_index_does_not_grow_with_the_number_of_documents() -> None:
    """Four million tokens in two million documents: their starts alone would take 16 MB."""
    stream = TokenStream([("x", np.tile(np.array([1, EOS], np.uint16), 2 << 20))], vocab_size=10)
    tracemalloc.start()
    index = index_documents(stream, eos_id=EOS, context_length=4)
    kept_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert index.n_documents == 2 << 20 and kept_bytes < 100_000
    assert [index.start(number) for number in (0, 1, 8_191, 8_192, 1_999_999)] == [0, 2, 16_382, 16_384, 3_999_998]
