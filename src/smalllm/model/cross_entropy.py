"""The loss of an update with its gradients, from the last layer and the head's weights, in parts.

The logits of all tokens at once are the largest tensor of a training step, written and read again several times. Here
they are made for some rows at a time, and the gradients of these rows right with them: never more than one part exists,
nothing is computed twice, and on a CPU, where memory of 32 MiB and more comes fresh from the system each time, a page
after the other, head and loss take about half as long (docs/log.md).

Source: Hsu et al. 2024 (Liger Kernel), section 3.2, for gradients in the forward pass.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_PART_BYTES = 32 << 20  # larger blocks are not kept by the allocator of a CPU (see runtime.configure)
_CPU_ROWS = 256  # of a product over all token ids: twice as fast as 512 or 1,024 on two cores
SUMMED_BYTES = 64 << 20  # of the weights' gradients from several parts, before they are added up


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab_size: int,
        ignore_index: int,
        dtype: torch.dtype,
        n_parts: int,
    ) -> Tensor:
        counts, x, w = targets != ignore_index, hidden.to(dtype), weight.to(dtype)
        share = _share(dtype, -(-len(x) // n_parts))
        losses: list[Tensor] = []
        grads_x: list[Tensor] = []
        grads_w: list[Tensor] = []
        for rows, wanted, counted in zip(
            x.chunk(n_parts), torch.where(counts, targets, 0).chunk(n_parts), counts.chunk(n_parts), strict=True
        ):
            loss, grad_rows, grad_w = _part(rows, w, wanted[:, None], counted, vocab_size, share)
            losses.append(loss)
            grads_x.extend(grad_rows)
            grads_w.append(grad_w)
            if len(grads_w) * grad_w.nbytes > SUMMED_BYTES:
                grads_w = [_sum(grads_w)]
        if grads_w[0].dtype == torch.float32:  # to be summed in place, which what is saved must not be
            grads_w = [_sum(grads_w)]
        n_targets = counts.sum()
        ctx.save_for_backward(n_targets, torch.cat(grads_x), *grads_w)
        ctx.dtypes, ctx.share = (hidden.dtype, weight.dtype), share
        return _sum(losses) / n_targets

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        n_targets, grad_x, *grads_w = ctx.saved_tensors
        scale = grad_loss / n_targets  # in FP32, where what is small is not lost: a loss scale may be in it
        of_hidden, of_weight = ctx.dtypes
        grads = (grad_x.float() * scale).to(of_hidden), (_sum(grads_w) * (scale / ctx.share)).to(of_weight)
        return *grads, None, None, None, None, None


def _share(dtype: torch.dtype, n_rows: int) -> float:
    """A power of two: FP16 ends at 65,504, and the gradients of the weights are sums over many rows."""
    return min(1.0, 512 / (1 << (n_rows - 1).bit_length())) if dtype == torch.float16 else 1.0


def _part(
    rows: Tensor, w: Tensor, wanted: Tensor, counted: Tensor, vocab_size: int, share: float
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The sum of some rows' losses, its gradients of the rows, and a share of that of the weights."""
    loss, grads = _loss_and_gradient(rows @ w.t(), wanted, counted, vocab_size)
    n_rows = _CPU_ROWS if rows.device.type == "cpu" else len(rows)
    return loss, [some @ w for some in grads.split(n_rows)], grads.t() @ (rows * share if share < 1.0 else rows)


def _loss_and_gradient(logits: Tensor, wanted: Tensor, counted: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The sum of some rows' losses, and its gradient of their logits, those past the vocabulary included."""
    wide = logits[:, :vocab_size].float()
    logsumexp = wide.logsumexp(-1)
    at_targets = wide.gather(1, wanted)[:, 0] - logsumexp
    loss = torch.where(counted, -at_targets, 0.0).sum()
    grads = (wide - logsumexp[:, None]).exp_().masked_fill_(~counted[:, None], 0.0).to(logits.dtype)
    corrected = torch.where(counted, torch.exp(at_targets) - 1.0, 0.0)  # to ask each logit whether it is the target's
    grads.scatter_(1, wanted, corrected[:, None].to(logits.dtype))  # would take twice as long, compiled
    n_past = logits.shape[1] - vocab_size
    return loss, F.pad(grads, (0, n_past)) if n_past else grads


def _sum(tensors: list[Tensor]) -> Tensor:
    """In FP32; in place, where the first is."""
    total = tensors[0].float()
    for other in tensors[1:]:
        total += other
    return total


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "R D"],
    targets: Int[Tensor, " N"],
    *,
    vocab_size: int,
    ignore_index: int,
    dtype: torch.dtype,
    n_parts: int,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the targets, reduced in FP32 [nats/token].

    Args:
        hidden: what the head reads.
        weight: the head's; its rows past `vocab_size` take no part.
        targets: token ids.
        vocab_size: real token ids.
        ignore_index: targets that do not count.
        dtype: of the products.
        n_parts: in how many the logits are made; at most one for each token.
    """
    n_parts = min(n_parts, len(targets))
    return _LinearCrossEntropy.apply(hidden, weight, targets, vocab_size, ignore_index, dtype, n_parts)


def fitting_parts(n_tokens: int, n_rows: int, d_model: int, *, number_bytes: int) -> int:
    """In how many parts a CPU is fast: as many as have logits of 32 MiB at most.

    Fewer where a part would have fewer rows than the model is wide: to add up gradients of the weights would then take
    longer than to make them.
    """
    return max(1, min(-(-n_tokens * n_rows * number_bytes // _PART_BYTES), n_tokens // d_model))
