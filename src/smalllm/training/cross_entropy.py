"""The loss of each update, in the form that a compiled CPU kernel is fast in.

Compiled from `F.cross_entropy`, the backward pass asks each logit whether it is the target's. Here it takes the
probabilities and corrects those of the targets after that: less than half of the time (docs/log.md), the same numbers.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.data.padded import IGNORED


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        counts = targets != IGNORED
        places = torch.where(counts, targets, 0)[:, None]  # [N 1]
        logsumexp = logits.float().logsumexp(-1)
        n_targets = counts.sum()
        ctx.save_for_backward(logits, places, counts, logsumexp, n_targets)
        losses = logsumexp - logits.gather(1, places)[:, 0].float()
        return torch.where(counts, losses, 0.0).sum() / n_targets

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        logits, places, counts, logsumexp, n_targets = ctx.saved_tensors
        weights = torch.where(counts, grad_loss / n_targets, 0.0)  # [N]
        grads = (torch.exp(logits.float() - logsumexp[:, None]) * weights[:, None]).to(logits.dtype)
        at_targets = (torch.exp(logits.gather(1, places)[:, 0].float() - logsumexp) - 1.0) * weights
        return grads.scatter(1, places, at_targets[:, None].to(logits.dtype)), None


def cross_entropy(logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the targets but `IGNORED` ones, reduced in FP32 [nats/token]."""
    return _CrossEntropy.apply(logits, targets)
