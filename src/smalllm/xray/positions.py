"""Loss by position: how much a model gains from more context.

The mean loss of the tokens that have the same number of tokens before them in what the model sees. A model that uses
its context has a curve that falls; where it goes flat, more context no longer helps. Source: Kaplan et al. 2020, sec.
3.2.2; Olsson et al. 2022 (loss at a late token less that at an early one as a measure of in-context learning).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.data.padded import IGNORED
from smalllm.model.documents import find_documents
from smalllm.model.gpt import GPT


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """Sums by number of tokens before the predicted one, less one: index 0 predicts from a single token.

    Attributes:
        nats: summed loss [nats].
        counts: tokens in each sum.
    """

    nats: Float[Tensor, " T"]
    counts: Int[Tensor, " T"]

    def buckets(self) -> list[tuple[int, int, float]]:
        """Means over positions 1, 2, 3–4, 5–8, …, counted from 1: (first, last, loss [nats/token])."""
        rows, first, n = [], 1, 1 + max(self.counts.nonzero().flatten().tolist(), default=-1)
        while first <= n:
            last = min(n, max(first, 2 * (first - 1)))
            count = int(self.counts[first - 1 : last].sum())
            if count:
                rows.append((first, last, float(self.nats[first - 1 : last].sum()) / count))
            first = last + 1
        return rows


@torch.no_grad()
def position_loss(
    model: GPT, batches: Iterable[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]], *, eos_id: int | None = None
) -> PositionLoss:
    """Score batches of inputs and targets; targets of -100 are left out.

    Args:
        model: in evaluation mode; runs in its weights' own arithmetic.
        batches: on any device.
        eos_id: given, positions count from the start of each document, which this token opens, and attention stays
            inside it.
    """
    n = model.config.context_length
    nats, counts = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    device = model.token_embedding.weight.device
    for token_ids, targets in batches:
        documents = None if eos_id is None else find_documents(token_ids.to(device), eos_id=eos_id)
        logits = model(token_ids.to(device), documents=documents)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=IGNORED, reduction="none"
        ).cpu()
        places = torch.arange(token_ids.shape[1]).expand_as(token_ids)
        places = (places if documents is None else documents.positions.cpu()).flatten()
        scored = (targets != IGNORED).flatten().cpu()
        nats.index_add_(0, places[scored], losses[scored].double())
        counts.index_add_(0, places[scored], torch.ones_like(places[scored]))
    return PositionLoss(nats, counts)
