"""Which tokens go into which batch: pure functions from a seed and a cursor, so that nothing has to be
remembered.

The tokens of a split are cut into windows. Window w holds the inputs at w·T … w·T + T - 1 and, shifted by
one, their targets, with T the context length: T + 1 tokens, the last of which is also the first of the next
window. An epoch takes every window once, in an order shuffled anew. The cursor counts windows consumed since
the start of the run; with the seed it is all that a checkpoint must keep. Nothing here knows of devices or
models.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smalllm.data.permutation import shuffle_positions
from smalllm.data.shards import TokenStream
from smalllm.errors import DataError

_SCAN_TOKENS = 1 << 20


def n_windows(n_tokens: int, context_length: int, *, split: str = "train") -> int:
    """How many windows a split of `n_tokens` has. The tail that does not fill a window is left out.

    Args:
        n_tokens: tokens in the split.
        context_length: inputs per window [tokens].
        split: the name for the error message.

    Raises:
        DataError: there is not one window.
    """
    count = (n_tokens - 1) // context_length
    if count < 1:
        raise DataError(
            f"The {split} split has {n_tokens:,} tokens; one window of context_length {context_length:,} "
            f"needs {context_length + 1:,}. Use a smaller context_length, or prepare more text for {split}."
        )
    return count


def window_ids(seed: int, cursor: int, n: int, *, n_windows: int) -> NDArray[np.int64]:
    """The windows at global positions cursor … cursor + n - 1 of the run, as window numbers [n].

    Position p belongs to epoch p // n_windows; each epoch takes every window once, in its own order. The
    result does not depend on how the positions are divided into calls, and is the same on every machine.
    """
    return shuffle_positions(seed, np.arange(cursor, cursor + n, dtype=np.uint64), n=n_windows)


def micro_batch_ids(
    seed: int,
    cursor: int,
    *,
    rank: int,
    n_ranks: int,
    micro_batch_size: int,
    micro_step: int,
    n_windows: int,
) -> NDArray[np.int64]:
    """The windows of one rank in one micro-step [micro_batch_size].

    Micro-step m takes the next n_ranks × micro_batch_size positions after those of m - 1, and rank r the r-th
    part of them. So a step takes the positions from `cursor` on without a gap: its windows, as a set, do not
    depend on how they are divided into ranks and micro-batches.

    Args:
        seed: the seed of the run.
        cursor: windows consumed by all ranks before this step.
        rank: this process, 0 … n_ranks - 1.
        n_ranks: how many processes share the step.
        micro_batch_size: windows per forward pass of one rank.
        micro_step: 0 … grad_accum_steps - 1.
        n_windows: windows in the split.
    """
    first = cursor + (micro_step * n_ranks + rank) * micro_batch_size
    return window_ids(seed, first, micro_batch_size, n_windows=n_windows)


def read_windows(stream: TokenStream, ids: NDArray[np.int64], context_length: int) -> NDArray[np.int64]:
    """The tokens of windows `ids` [n]: rows [n, context_length + 1] of which [:, :-1] are inputs, [:, 1:]
    targets.

    Raises:
        DataError: a token is not an id of the tokenizer; the message names the file and the offset in it.
    """
    return stream.read_rows(ids * context_length, context_length + 1)


def document_windows(
    stream: TokenStream, eos_id: int, *, context_length: int, max_documents: int | None = None
) -> Iterator[tuple[int, int]]:
    """Where each document lies, in order, so that it can be scored whole and from its own start.

    Yields (start, stop): its tokens are at start … stop - 1, its end-of-document token included. A document
    longer than `context_length` comes as several such pieces, none longer. The context before `start` is the
    token at start - 1 (for a document's start, the end of the document before), or `eos_id` where start is 0:
    so every token of a document is a target once. Tokens after the last `eos_id` are a document too.

    Args:
        stream: the tokens of one split; read from the front, as far as the iterator is used.
        eos_id: the end-of-document token.
        context_length: targets per piece, at most [tokens].
        max_documents: stop after so many documents; None for all of them.
    """
    for n_before, (start, stop) in enumerate(_documents(stream, eos_id)):
        if n_before == max_documents:
            return
        for piece_start in range(start, stop, context_length):
            yield piece_start, min(piece_start + context_length, stop)


def _documents(stream: TokenStream, eos_id: int) -> Iterator[tuple[int, int]]:
    start = 0
    for position in range(0, stream.n_tokens, _SCAN_TOKENS):
        chunk = stream.read(position, min(position + _SCAN_TOKENS, stream.n_tokens))
        for end in np.flatnonzero(chunk == eos_id).tolist():
            yield start, position + end + 1
            start = position + end + 1
    if start < stream.n_tokens:
        yield start, stream.n_tokens
