"""The unigram model: what one gets from token frequencies alone. A trained model must beat it by far."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from smalllm.evaluation.loss import Score


def count_tokens(blocks: Iterable[NDArray], *, vocab_size: int) -> NDArray[np.int64]:
    """How often each id occurs [vocab_size]."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for block in blocks:
        counts += np.bincount(block.reshape(-1), minlength=vocab_size)
    return counts


def score_unigram(
    train_counts: NDArray[np.int64],
    val_counts: NDArray[np.int64],
    *,
    token_byte_lengths: NDArray[np.int64],
) -> Score:
    """Score the validation tokens with the training frequencies, add-one smoothed.

    Args:
        train_counts: occurrences in the training text [vocab_size].
        val_counts: occurrences among the scored tokens [vocab_size].
        token_byte_lengths: bytes of text each id stands for; 0 for special tokens.
    """
    probabilities = (train_counts + 1.0) / (train_counts.sum() + len(train_counts))
    nats = -np.log(probabilities) * val_counts
    is_text = token_byte_lengths > 0
    return Score(
        nats=float(nats.sum()),
        tokens=int(val_counts.sum()),
        text_nats=float(nats[is_text].sum()),
        text_bytes=int((token_byte_lengths * val_counts).sum()),
        correct=int(val_counts[int(train_counts.argmax())]),
    )
