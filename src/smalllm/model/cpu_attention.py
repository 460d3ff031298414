"""Causal attention on a CPU, where PyTorch's is slow: in the matrix unit, or in blocks of queries.

The flash kernel's backward pass does not use the matrix units of CPUs that have them, and no fused kernel there drops
weights. With Intel's unit a kernel of our own does all (`tile_attention.py`). Elsewhere, in compiled training, the
probabilities are computed again block by block with batched products, about twice as fast once compiled; with dropout
the forward pass is in blocks too, and what was dropped is computed again for the backward pass (`dropout.py`). `pays`
says where (docs/log.md); everywhere else `scaled_dot_product_attention` does the work, and tests hold all of them to
the same result.

A mask, where there is one, replaces the causal one: windows of several documents have it (`documents.py`).

Source: Dao et al. 2022 (FlashAttention), algorithms 3 and 4: the backward pass from the row-wise log-sum-exp.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smalllm.model import tile_attention
from smalllm.model.dropout import Key, again, kept, numbered

BLOCK = 128


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float, key: Key | None) -> Tensor:
        y, logsumexp = _flash(q, k, v, mask)
        if key is not None:
            y = _dropped(q, k, v, mask, logsumexp, rate, key)
        ctx.save_for_backward(q, k, v, mask, key, y, logsumexp)
        ctx.rate = rate
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, key, y, logsumexp = ctx.saved_tensors
        scale = 1.0 / math.sqrt(q.shape[3])
        delta = (grad_y.float() * y.float()).sum(-1, keepdim=True)
        grads_q, grad_k, grad_v = [], torch.zeros_like(k[:, :, :0]), torch.zeros_like(v[:, :, :0])
        for start, stop in _blocks(q):
            q_block, grad_block = q[:, :, start:stop], grad_y[:, :, start:stop]
            k_seen, v_seen = k[:, :, :stop], v[:, :, :stop]
            p = _weights(q, k, mask, logsumexp, start, stop)
            grad_p, p_used = (grad_block @ v_seen.transpose(-1, -2)).float(), p
            if key is not None:
                share = _share_kept(q, start, stop, ctx.rate, again(key))
                grad_p, p_used = grad_p * share, p * share
            grad_scores = (p * (grad_p - delta[:, :, start:stop]) * scale).to(q.dtype)
            grads_q.append(grad_scores @ k_seen)
            grad_k = _add_longer(grad_k, grad_scores.transpose(-1, -2) @ q_block)
            grad_v = _add_longer(grad_v, p_used.to(q.dtype).transpose(-1, -2) @ grad_block)
        return torch.cat(grads_q, dim=2), grad_k, grad_v, None, None, None


def pays(q: Float[Tensor, "B H T K"], *, rate: float, key: Key | None) -> bool:
    """Whether `attend` is faster than PyTorch's attention for whole sequences of such queries."""
    is_dropped = rate > 0
    if q.device.type != "cpu" or (is_dropped and key is None):
        return False
    if tile_attention.takes("cpu", q.dtype, q.shape[3]):
        return True
    is_compiled_training = torch.compiler.is_compiling() and torch.is_grad_enabled()
    return is_compiled_training and (is_dropped or q.dtype == torch.bfloat16)


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T K"],
    mask: Bool[Tensor, "B 1 T T"] | None = None,
    *,
    rate: float = 0.0,
    key: Key | None = None,
) -> Float[Tensor, "B H T K"]:
    """Causal attention; without a key equal to `scaled_dot_product_attention(..., is_causal=True, enable_gqa=True)`.

    Args:
        q: queries.
        k: keys; heads H/G share one.
        v: values.
        mask: which keys each query sees: none later than itself, and one at least.
        rate: share of the weights that is dropped, where there is a key.
        key: decides which.
    """
    if tile_attention.takes("cpu", q.dtype, q.shape[3]):
        return tile_attention.attend(q, k, v, mask, rate=rate, key=key)
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    return _Attend.apply(q, k, v, mask, rate, key)


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What attention gives, and the log-sum-exp of each query's scores [B H T]."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if mask is None:
        return flash(q, k, v, 0.0, True)
    hidden = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)  # the kernel adds it to the scores
    return flash(q, k, v, 0.0, False, attn_mask=hidden)


def _dropped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, logsumexp: Tensor, rate: float, key: Key) -> Tensor:
    """What attention gives without the weights that are dropped."""
    parts = []
    for start, stop in _blocks(q):
        p = _weights(q, k, mask, logsumexp, start, stop) * _share_kept(q, start, stop, rate, key)
        parts.append(p.to(q.dtype) @ v[:, :, :stop])
    return torch.cat(parts, dim=2)


def _blocks(q: Tensor) -> list[tuple[int, int]]:
    n_positions = q.shape[2]
    return [(start, min(start + BLOCK, n_positions)) for start in range(0, n_positions, BLOCK)]


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, logsumexp: Tensor, start: int, stop: int) -> Tensor:
    """The probabilities of a block of queries [B H start:stop :stop]; with its log-sum-exp one pass is enough."""
    scores = (q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2)).float() * (1.0 / math.sqrt(q.shape[3]))
    p = torch.exp(scores - logsumexp[:, :, start:stop, None])
    return p.tril(start) if mask is None else torch.where(mask[:, :, start:stop, :stop], p, 0.0)


def _share_kept(q: Tensor, start: int, stop: int, rate: float, key: Key) -> Tensor:
    """What the weights of a block are multiplied by: 0 where they are dropped."""
    n_positions = q.shape[2]
    numbers = numbered(torch.Size([*q.shape[:3], n_positions]), device=q.device)[:, :, start:stop, :stop]
    return kept(numbers, rate, key).float() * (1.0 / (1.0 - rate))


def _add_longer(total: Tensor, more: Tensor) -> Tensor:
    """Sum of gradients for the first positions and for more of them."""
    n_before = total.shape[2]
    return torch.cat([total + more[:, :, :n_before], more[:, :, n_before:]], dim=2)
