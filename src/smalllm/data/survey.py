"""What is in a split: its token frequencies, the lengths of its documents and a few windows, from a bounded sample.

A split of up to `SAMPLE_TOKENS` is looked at whole. Of a larger one, `N_PLACES` stretches of equal length are, evenly
spaced from the first token to the last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.data.shards import TokenStream

SAMPLE_TOKENS = 1 << 22
N_PLACES = 32
N_WINDOWS = 3
WINDOW_TOKENS = 48

_MAX_BINS = 40
_WIDE = 8  # lengths that differ by such a factor get a logarithmic histogram


@dataclass(frozen=True, slots=True)
class Survey:
    """What a sample of a split holds.

    Attributes:
        tokens: how many were looked at.
        is_whole: whether that is all of them.
        ids: the different ids found, most frequent first [n]; equally frequent ones by id.
        counts: how often each occurs [n].
        lengths: of the documents that lie whole in the sample, their end token included [tokens]; None where the end
            token is not known.
    """

    tokens: int
    is_whole: bool
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    lengths: NDArray[np.int64] | None


def survey(stream: TokenStream, *, eos_id: int | None) -> Survey:
    """Look at a sample of a split.

    A document lies between two end tokens; the first and the last of the split have one of them. Where a split begins
    with an end token and does not end with one, they stand before their documents. Documents longer than a stretch of
    the sample are missed.

    Args:
        stream: the split.
        eos_id: the token between documents, if it is known.

    Raises:
        DataError: an id of the sample is not below the stream's vocab_size.
    """
    places = list(_places(stream.n_tokens))
    chunks = [stream.read(start, stop) for start, stop in places]
    sample: NDArray[Any] = np.concatenate(chunks) if chunks else np.zeros(0, np.int64)
    ids, counts = np.unique(sample, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    lengths = None
    if eos_id is not None:
        is_before = len(sample) > 0 and bool(sample[0] == eos_id != sample[-1])
        found = [
            _lengths(chunk == eos_id, is_before=is_before, at_start=start == 0, at_end=stop == stream.n_tokens)
            for (start, stop), chunk in zip(places, chunks, strict=True)
        ]
        lengths = np.concatenate([np.zeros(0, np.int64), *found])
    return Survey(
        tokens=len(sample),
        is_whole=len(sample) == stream.n_tokens,
        ids=ids[order].astype(np.int64),
        counts=counts[order].astype(np.int64),
        lengths=lengths,
    )


def window_starts(n_tokens: int) -> list[int]:
    """Where the windows to show begin: the first at 0, the last at the end of the split."""
    last = max(0, n_tokens - WINDOW_TOKENS)
    return sorted({last * i // (N_WINDOWS - 1) for i in range(N_WINDOWS)}) if n_tokens else []


def length_edges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges [n + 1] of a histogram of whole numbers: bin i counts edges[i] ≤ length < edges[i + 1].

    Equally wide bins, or, where lengths differ by more than a factor of 8, bins whose width grows with the length.
    """
    low, high = int(lengths.min()), int(lengths.max())
    if high < _WIDE * low:
        width = -(-(high + 1 - low) // _MAX_BINS)
        return np.arange(low, high + width + 1, width, dtype=np.int64)
    return np.unique(np.ceil(np.geomspace(low, high + 1, _MAX_BINS + 1)).astype(np.int64))


def _places(n_tokens: int) -> Iterator[tuple[int, int]]:
    if n_tokens <= SAMPLE_TOKENS:
        if n_tokens:
            yield 0, n_tokens
        return
    size = SAMPLE_TOKENS // N_PLACES
    for i in range(N_PLACES):
        start = (n_tokens - size) * i // (N_PLACES - 1)
        yield start, start + size


def _lengths(is_end: NDArray[np.bool_], *, is_before: bool, at_start: bool, at_end: bool) -> NDArray[np.int64]:
    """How long the documents are that lie whole in a stretch, whose edges are a document's where the split's are."""
    cuts = np.flatnonzero(is_end) + (0 if is_before else 1)
    edges = np.array([0] * at_start + [len(is_end)] * at_end, np.int64)
    return np.diff(np.unique(np.concatenate([cuts, edges]))).astype(np.int64)
