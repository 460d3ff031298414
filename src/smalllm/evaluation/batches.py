"""What is scored: windows of a split in order, or whole documents each from its own start."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from smalllm.data.padded import IGNORED

_BATCH_TOKENS = 8_192

Batch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]


def window_batches(blocks: Iterable[tuple[NDArray, NDArray]]) -> Iterator[Batch]:
    """Blocks of windows, inputs and targets [n, T], without the positions that are padding in every row."""
    for inputs, targets in blocks:
        longest = int(np.flatnonzero((targets != IGNORED).any(axis=0))[-1]) + 1
        yield torch.from_numpy(inputs[:, :longest]), torch.from_numpy(targets[:, :longest])


def document_batches(documents: Sequence[NDArray], *, eos_id: int) -> Iterator[Batch]:
    """Whole documents, each from its own start, padded to the longest of its batch.

    A document's first token is predicted from `eos_id`, as at generation; padding is not scored.

    Args:
        documents: token ids, each ending with its `eos_id`.
        eos_id: the end-of-document token.
    """
    ordered = sorted(documents, key=len, reverse=True)
    start = 0
    while start < len(ordered):
        n_rows = max(1, _BATCH_TOKENS // len(ordered[start]))
        batch = ordered[start : start + n_rows]
        longest = len(batch[0])
        inputs = torch.full((len(batch), longest), eos_id, dtype=torch.int64)
        targets = torch.full((len(batch), longest), IGNORED, dtype=torch.int64)
        for row, document in enumerate(batch):
            ids = torch.as_tensor(document, dtype=torch.int64)
            inputs[row, 1 : len(ids)] = ids[:-1]
            targets[row, : len(ids)] = ids
        yield inputs, targets
        start += len(batch)
