"""Log-probabilities of many continuations, each shared beginning computed once.

The requests of one question (the same context, several endings) become one row: first the ids that all have in common,
then each one's rest, which sees the common part and itself alone and has the positions that it would have on its own.
So the numbers are those of separate passes, up to the order of sums. Rows are sorted by length and go through the model
in batches; the head works only where something is scored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from smalllm import runtime
from smalllm.evaluation.requests import Request
from smalllm.model.documents import Documents
from smalllm.model.gpt import GPT

_BATCH_TOKENS = 4_096
_LOGITS_AT_ONCE = 1 << 24
_PADDING = -1


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a model thinks of a continuation.

    Attributes:
        log_prob: logarithm of its probability [nats].
        n_tokens: how many ids it has.
        is_greedy: every one of them was the likeliest.
    """

    log_prob: float
    n_tokens: int
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """Requests that begin alike, laid into one row.

    Attributes:
        group: whose row it is.
        ids: the common ids, then the rest of each request.
        branch: 0 for the common part, then which request an id belongs to, from 1.
        position: how many ids come before, on the way to this one.
        places: for each request, where in the row its targets are predicted.
    """

    group: int
    ids: list[int]
    branch: list[int]
    position: list[int]
    places: list[list[int]]


@torch.inference_mode()
def score_requests(
    model: GPT,
    groups: Sequence[Sequence[Request]],
    *,
    device: str,
    precision: str,
    advance: Callable[[int], None] | None = None,
) -> list[list[Likelihood]]:
    """How likely each request is, in the order given.

    Args:
        model: put into evaluation mode.
        groups: requests; those of one group share what their inputs begin with.
        device: where the model is.
        precision: of its matrix products.
        advance: told how many groups are done.
    """
    model.eval()
    found: list[list[Likelihood]] = [[] for _ in groups]
    n_done = 0
    rows = [_row(number, group) for number, group in enumerate(groups) if group]
    for batch in _batches(rows):
        scores = _score_batch(model, batch, groups, device=device, precision=precision)
        for row, likelihoods in zip(batch, scores, strict=True):
            found[row.group] = likelihoods
        n_done += len(batch)
        if advance is not None:
            advance(n_done)
    return found


def _row(number: int, group: Sequence[Request]) -> _Row:
    n_common = _n_common([request.inputs for request in group])
    row = _Row(number, list(group[0].inputs[:n_common]), [0] * n_common, list(range(n_common)), [])
    for branch, request in enumerate(group, start=1):
        path = [*range(n_common), *range(len(row.ids), len(row.ids) + len(request.inputs) - n_common)]
        row.places.append(path[-len(request.targets) :])
        row.ids.extend(request.inputs[n_common:])
        row.branch.extend([branch] * (len(request.inputs) - n_common))
        row.position.extend(range(n_common, len(request.inputs)))
    return row


def _n_common(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many ids all of them begin with."""
    first, last = min(sequences), max(sequences)  # the two that differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _batches(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Rows of about the same length together, the longest first: if memory is short, it shows at once."""
    ordered = sorted(rows, key=lambda row: len(row.ids), reverse=True)
    start = 0
    while start < len(ordered):
        n_rows = max(1, _BATCH_TOKENS // len(ordered[start].ids))
        yield ordered[start : start + n_rows]
        start += n_rows


def _score_batch(
    model: GPT, batch: list[_Row], groups: Sequence[Sequence[Request]], *, device: str, precision: str
) -> list[list[Likelihood]]:
    length = len(batch[0].ids)
    token_ids = _padded([row.ids for row in batch], length, device=device, fill=0)
    needs_mask = any(len(row.places) > 1 for row in batch)
    documents = _documents(batch, length, device=device) if needs_mask else None
    requests = [request for row in batch for request in groups[row.group]]
    places = [r * length + p for r, row in enumerate(batch) for path in row.places for p in path]
    targets = torch.tensor([target for request in requests for target in request.targets], device=device)
    with runtime.autocast(device, precision):
        hidden = model.hidden(token_ids, documents=documents).flatten(0, 1)
        log_probs, is_top = _score_places(model, hidden, torch.tensor(places, device=device), targets)
    ends = np.cumsum([len(request.targets) for request in requests])
    likelihoods = iter(
        [
            Likelihood(float(log_probs[end - n : end].sum()), n, bool(is_top[end - n : end].all()))
            for end, n in zip(ends, (len(request.targets) for request in requests), strict=True)
        ]
    )
    return [[next(likelihoods) for _ in row.places] for row in batch]


def _score_places(
    model: GPT, hidden: Tensor, places: Int[Tensor, " N"], targets: Int[Tensor, " N"]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each target at its place, and whether nothing is likelier; a place is computed once."""
    different, index = torch.unique(places, return_inverse=True)
    log_probs = torch.empty(len(places), dtype=torch.float64)
    is_top = torch.empty(len(places), dtype=torch.bool)
    n_at_once = max(1, _LOGITS_AT_ONCE // model.vocab_size)
    for start in range(0, len(different), n_at_once):
        logits = model.lm_head(hidden[different[start : start + n_at_once]])[..., : model.vocab_size].float()  # [M V]
        here = ((index >= start) & (index < start + n_at_once)).nonzero().flatten()
        at, asked = index[here] - start, targets[here]
        highest, chosen = logits.amax(-1), logits[at, asked]  # several times as fast as argmax
        is_high = chosen == highest[at]
        is_high[is_high.clone()] = logits[at[is_high]].argmax(-1) == asked[is_high]  # of equal ones the first
        log_sum = logits.sub_(highest[:, None]).exp_().sum(-1).log()  # in place: no second table of logits
        log_probs[here.cpu()] = (chosen - highest[at] - log_sum[at]).cpu().double()
        is_top[here.cpu()] = is_high.cpu()
    return log_probs.numpy(), is_top.numpy()


def _documents(batch: list[_Row], length: int, *, device: str) -> Documents:
    """What each id sees: the common part, and its own branch up to itself."""
    branch = _padded([row.branch for row in batch], length, device=device, fill=_PADDING)
    position = _padded([row.position for row in batch], length, device=device, fill=0)
    key = branch[:, None, :]
    mask = ((key == 0) | (key == branch[:, :, None])).tril()
    return Documents(positions=position, mask=mask[:, None])


def _padded(rows: list[list[int]], length: int, *, device: str, fill: int) -> Int[Tensor, "B T"]:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], device=device)
