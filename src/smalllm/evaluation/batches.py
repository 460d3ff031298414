"""What is scored: windows of a split in order, whole documents each from its own start, or windows that overlap."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from smalllm.data.padded import IGNORED
from smalllm.evaluation.requests import rolling_windows

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


Window = tuple[NDArray[np.int64], NDArray[np.int64]]
_SORTED_WINDOWS = 256


def sliding_windows(
    read: Callable[[int, int], NDArray], n_tokens: int, *, context_length: int, stride: int
) -> Iterator[Window]:
    """Windows over a sequence that score every token but the first once (see `rolling_windows`).

    Args:
        read: gives the ids at positions start … stop - 1.
        n_tokens: length of the sequence.
        context_length: inputs per window, at most.
        stride: targets per window after the first.

    Yields:
        Inputs and targets, both [T]; a target of -100 is context only.
    """
    for start, stop, n_scored in rolling_windows(n_tokens - 1, context_length=context_length, stride=stride):
        ids = read(start, stop + 1).astype(np.int64)
        targets = ids[1:].copy()
        targets[: len(targets) - n_scored] = IGNORED
        yield ids[:-1], targets


def padded_batches(windows: Iterable[Window], *, fill_id: int) -> Iterator[Batch]:
    """Batches of windows of any lengths; some are held back and sorted, so that little is padding.

    Args:
        windows: inputs and targets, both [T].
        fill_id: stands where there is no input; what comes before it does not see it.
    """
    held: list[Window] = []
    for window in windows:
        held.append(window)
        if len(held) == _SORTED_WINDOWS:
            yield from _padded(held, fill_id)
            held = []
    yield from _padded(held, fill_id)


def _padded(windows: list[Window], fill_id: int) -> Iterator[Batch]:
    ordered = sorted(windows, key=lambda window: len(window[0]), reverse=True)
    start = 0
    while start < len(ordered):
        longest = len(ordered[start][0])
        batch = ordered[start : start + max(1, _BATCH_TOKENS // longest)]
        inputs = torch.full((len(batch), longest), fill_id, dtype=torch.int64)
        targets = torch.full((len(batch), longest), IGNORED, dtype=torch.int64)
        for row, (window, wanted) in enumerate(batch):
            inputs[row, : len(window)] = torch.from_numpy(window)
            targets[row, : len(wanted)] = torch.from_numpy(wanted)
        yield inputs, targets
        start += len(batch)
