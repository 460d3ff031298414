"""Causal attention in the matrix unit of Intel's server CPUs (AMX): `attention.cpp`, compiled when first used.

BF16 in and out, FP32 between; forward and backward pass, with dropout and masks, and nothing as large as the scores is
ever in memory. `cpu_attention` calls it where it can be had. An operator of its own, closed to `torch.compile`.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smalllm.compiler import load_library
from smalllm.model.dropout import Key, threshold_of

_WIDTHS = 32  # heads are whole tiles wide


class _Heads(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int64) for name in ("batch_stride", "head_stride", "row_stride")]


_SIZES = ("n_batch", "n_heads", "n_kv_heads", "n_positions", "d_head", "n_threads")
_TENSORS = ("q", "k", "v", "y", "grad_y", "grad_q", "grad_k", "grad_v")


class _Attention(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _SIZES]
    _fields_ += [("mask", ctypes.c_void_p), ("key", ctypes.c_void_p)]
    _fields_ += [("threshold", ctypes.c_int64), ("share", ctypes.c_double)]
    _fields_ += [(name, _Heads) for name in _TENSORS]
    _fields_ += [("logsumexp", ctypes.c_void_p)]


def takes(device: str, dtype: torch.dtype, d_head: int) -> bool:
    """Whether attention of this kind can be had here."""
    return device == "cpu" and dtype == torch.bfloat16 and d_head % _WIDTHS == 0 and is_available()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_available() -> bool:
    """Whether this machine has the unit, and a compiler."""
    return _library() is not None


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, for whose instructions the system has been asked; without that they end the process."""
    library = load_library(Path(__file__).with_name("attention.cpp"))
    return library if isinstance(library, ctypes.CDLL) and library.has_tiles() else None


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T K"],
    mask: Bool[Tensor, "B 1 T T"] | None = None,
    *,
    rate: float = 0.0,
    key: Key | None = None,
) -> Float[Tensor, "B H T K"]:
    """As `cpu_attention.attend`, for what `takes` says."""
    y: Tensor = _attend(q, k, v, mask, rate, key)[0]
    return y


@torch.library.custom_op("smalllm::tile_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float, key: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What attention gives, and the log-sum-exp of each query's scores [B H T]."""
    y, logsumexp = _new(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    _call("forward", {"q": q, "k": k, "v": v, "y": y}, logsumexp, mask, rate, key)
    return y, logsumexp


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float, key: Tensor | None) -> tuple[Tensor, Tensor]:
    return _new(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("smalllm::tile_attention_backward", mutates_args=())
def _differentiate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    logsumexp: Tensor,
    grad_y: Tensor,
    mask: Tensor | None,
    rate: float,
    key: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = {"grad_q": _new(q), "grad_k": _new(k), "grad_v": _new(v)}
    _call("backward", {"q": q, "k": k, "v": v, "y": y, "grad_y": grad_y, **grads}, logsumexp, mask, rate, key)
    return grads["grad_q"], grads["grad_k"], grads["grad_v"]


@_differentiate.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _new(q), _new(k), _new(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, mask, ctx.rate, key = inputs
    ctx.save_for_backward(q, k, v, *output, mask, key)


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, y, logsumexp, mask, key = ctx.saved_tensors
    grads: tuple[Tensor, ...] = _differentiate(q, k, v, y, logsumexp, grad_y, mask, ctx.rate, key)
    return *grads, None, None, None


_attend.register_autograd(_backward, setup_context=_keep)


def _new(q: Tensor) -> Tensor:
    """Room like q's, in memory [B T H K]: so the heads of a position lie together, as the next product wants them."""
    n_batch, n_heads, n_positions, d_head = q.shape
    return q.new_empty(n_batch, n_positions, n_heads, d_head).transpose(1, 2)


def _call(
    name: str, tensors: dict[str, Tensor], logsumexp: Tensor, mask: Tensor | None, rate: float, key: Tensor | None
) -> None:
    n_batch, n_heads, n_positions, d_head = tensors["q"].shape
    held = {name: x if x.stride(3) == 1 else x.contiguous() for name, x in tensors.items()}
    mask = None if mask is None else mask.expand(n_batch, 1, n_positions, n_positions).contiguous()
    key = None if key is None or rate == 0 else key.contiguous()
    logsumexp = logsumexp.contiguous()  # as it was made: nothing is copied
    what = _Attention(
        n_batch, n_heads, tensors["k"].shape[1], n_positions, d_head, torch.get_num_threads(),
        None if mask is None else mask.data_ptr(),
        None if key is None else key.data_ptr(),
        threshold_of(rate),
        1.0 / (1.0 - rate),
        **{name: _Heads(x.data_ptr(), *x.stride()[:3]) for name, x in held.items()},
        logsumexp=logsumexp.data_ptr(),
    )  # fmt: skip
    library = _library()
    assert library is not None, "see `takes`"
    getattr(library, name)(ctypes.byref(what))
