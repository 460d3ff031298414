"""Dropout for compiled training on a CPU: what is dropped is computed from a key, not drawn.

A compiled CPU kernel draws its random numbers one at a time, and no fused attention kernel there drops weights, which
made dropout cost more than all the rest of a step (docs/log.md). A number hashed from an element's place and a key
costs next to nothing, needs no memory, and is the same wherever it is computed again: in the backward pass, or in a
block whose activations are not kept. Everywhere else PyTorch's `dropout` does the work.

Source: Wellons 2018 (hash-prospector, "lowbias32"), for the multipliers and shifts.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Key = Int[Tensor, "2"]
Keys = tuple[Key | None, Key | None, Key | None]
"""Of the three places in a block where there is dropout: attention's weights, its output, the MLP's."""
NO_KEYS: Keys = (None, None, None)
_HALF = 1 << 31


def draw_keys(n: int, *, device: torch.device) -> list[Keys]:
    """Keys for so many blocks, from PyTorch's generator: two 32-bit numbers each."""
    keys = _draw(3 * n, device)
    return list(zip(keys[0::3], keys[1::3], keys[2::3], strict=True))


@torch.library.custom_op("smalllm::draw_keys", mutates_args=())
def _draw(n: int, device: torch.device) -> list[Tensor]:
    """Closed to the compiler, and each key a tensor of its own: so it sees that the kernels of all blocks are alike."""
    return [torch.randint(-_HALF, _HALF, (2,), dtype=torch.int32, device=device) for _ in range(n)]


@_draw.register_fake
def _(n: int, device: torch.device) -> list[Tensor]:
    return [torch.empty(2, dtype=torch.int32, device=device) for _ in range(n)]


def again(key: Key) -> Key:
    """The same key for the backward pass, by a way that hides from the compiler that it is the same.

    What is dropped is then computed again. The compiler would keep it instead, and to write one truth value for each
    element takes several times as long as to hash its number.
    """
    return key.flip(0).flip(0)


def kept(numbers: Int[Tensor, "*shape"], rate: float, key: Key) -> Bool[Tensor, "*shape"]:
    """Which elements stay, each with probability 1 - rate, given their numbers and a key.

    All is in 32-bit integers, whose products and sums may run over. A shift to the right brings copies of the sign with
    it, which are masked away.
    """
    x = numbers ^ key[0]
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = ((x ^ ((x >> 15) & 0x1FFFF)) + key[1]) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF) >= threshold_of(rate)


def threshold_of(rate: float) -> int:
    """What hashes lie below with this probability; they are signed 32-bit integers."""
    return round(rate * 2 * _HALF) - _HALF


def numbered(shape: torch.Size, *, device: torch.device) -> Int[Tensor, "*shape"]:
    """A number for each element, row by row; past 2^32 they begin anew."""
    rows = torch.arange(shape[:-1].numel(), dtype=torch.int32, device=device).view(*shape[:-1], 1)
    return rows * shape[-1] + torch.arange(shape[-1], dtype=torch.int32, device=device)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, key: Key) -> Tensor:
        ctx.save_for_backward(key)
        ctx.rate = rate
        return _dropped(x, rate, key)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (key,) = ctx.saved_tensors
        return _dropped(grad, ctx.rate, again(key)), None, None


def _dropped(x: Tensor, rate: float, key: Key) -> Tensor:
    return torch.where(kept(numbered(x.shape, device=x.device), rate, key), x * (1.0 / (1.0 - rate)), 0.0)


def dropout(x: Float[Tensor, "*shape"], rate: float, key: Key | None, *, training: bool) -> Float[Tensor, "*shape"]:
    """`F.dropout`; where it is compiled and has a key, the key decides what is dropped."""
    if key is None or not torch.compiler.is_compiling():
        return F.dropout(x, rate, training)
    return _Dropout.apply(x, rate, key)
