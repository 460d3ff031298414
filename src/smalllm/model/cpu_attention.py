"""Causal attention for compiled BF16 training on a CPU: PyTorch's flash kernel forward, our own blocks backward.

The flash kernel's backward pass is the slowest part of a training step on CPUs with BF16 matrix units: it does not use
them. Recomputing the probabilities block by block with batched products does, and is about twice as fast once compiled
(docs/log.md). `Attention` calls this only where it pays; everywhere else `scaled_dot_product_attention` does the work,
and a test holds both to the same result.

A mask, where there is one, replaces the causal one: windows of several documents have it (`documents.py`).

Source: Dao et al. 2022 (FlashAttention), algorithm 4: the backward pass from the row-wise log-sum-exp.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BLOCK = 128


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        if mask is None:
            y, logsumexp = flash(q, k, v, 0.0, True)
        else:  # the kernel adds its mask to the scores
            hidden = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
            y, logsumexp = flash(q, k, v, 0.0, False, attn_mask=hidden)
        ctx.save_for_backward(q, k, v, mask, y, logsumexp)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, mask, y, logsumexp = ctx.saved_tensors
        n_positions, scale = q.shape[2], 1.0 / math.sqrt(q.shape[3])
        shift = logsumexp[..., None]  # [B H T 1]
        delta = (grad_y.float() * y.float()).sum(-1, keepdim=True)
        grads_q, grad_k, grad_v = [], torch.zeros_like(k[:, :, :0]), torch.zeros_like(v[:, :, :0])
        for start in range(0, n_positions, _BLOCK):
            stop = min(start + _BLOCK, n_positions)
            q_block, grad_block = q[:, :, start:stop], grad_y[:, :, start:stop]
            k_seen, v_seen = k[:, :, :stop], v[:, :, :stop]
            p = torch.exp((q_block @ k_seen.transpose(-1, -2)).float() * scale - shift[:, :, start:stop])
            p = p.tril(start) if mask is None else torch.where(mask[:, :, start:stop, :stop], p, 0.0)
            grad_p = (grad_block @ v_seen.transpose(-1, -2)).float()
            grad_scores = (p * (grad_p - delta[:, :, start:stop]) * scale).to(q.dtype)
            grads_q.append(grad_scores @ k_seen)
            grad_k = _add_longer(grad_k, grad_scores.transpose(-1, -2) @ q_block)
            grad_v = _add_longer(grad_v, p.to(q.dtype).transpose(-1, -2) @ grad_block)
        return torch.cat(grads_q, dim=2), grad_k, grad_v, None


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T K"],
    mask: Bool[Tensor, "B 1 T T"] | None = None,
) -> Float[Tensor, "B H T K"]:
    """Causal attention without dropout; equal to `scaled_dot_product_attention(q, k, v, is_causal=True)`.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: which keys each query sees: none later than itself, and one at least.
    """
    return _Attend.apply(q, k, v, mask)


def _add_longer(total: Tensor, more: Tensor) -> Tensor:
    """Sum of gradients for the first positions and for more of them."""
    n_before = total.shape[2]
    return torch.cat([total + more[:, :, :n_before], more[:, :, n_before:]], dim=2)
