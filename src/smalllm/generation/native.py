"""The model in the hands of `decode.cpp`: weights packed once, and slots of keys and values for it."""

import contextlib
import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalllm.compiler import load_library
from smalllm.errors import ConfigError
from smalllm.model.gpt import GPT, Attention, Block

KINDS = {"fp32": 0, "bf16": 1, "int8": 2}
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_LANES = 16
_TILE_OUTPUTS = 32
_TILE_INPUT_BYTES = 64
_MOST_ROWS = 128
_HUGE_BYTES = 2 << 20
_BYTES_PER_THREAD = 512 << 10


def load_decoder() -> ctypes.CDLL | str:
    """`decode.cpp` as a library, or in words why there is none."""
    return load_library(Path(__file__).with_name("decode.cpp"))


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scale", "bias")]
    _fields_ += [(name, ctypes.c_int64) for name in ("n_out", "n_in")]


class _Norm(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "bias")]


class _Layer(ctypes.Structure):
    _fields_ = [(name, _Norm) for name in ("attention_norm", "q_norm", "k_norm", "mlp_norm")]
    _fields_ += [(name, _Matrix) for name in ("qkv", "out", "gate", "up", "down")]


_SIZES = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_ff", "n_rows_max", "n_slots", "n_positions")


class _Model(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in (*_SIZES, "n_threads", "is_rms", "kind", "cache_kind", "k_stride", "tiles")
    ]
    _fields_ += [("eps", ctypes.c_double)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("embedding", "places", "cos", "sin", "layers")]
    _fields_ += [("norm", _Norm), ("head", _Matrix)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("keys", "values", "scratch")]


class NativeReader:
    """Reads tokens into slots on the CPU; each row is computed alike whatever others are computed with it.

    Args:
        model: on the CPU. Its matrices are packed here, the rest is shared with it.
        n_slots: sequences that are held at once.
        weights: fp32, bf16, or int8 with one scale per output (symmetric, rounded to the nearest).
        n_threads: absent: PyTorch's.
        matrix_unit: use AMX where the CPU has it and the system lets us: for weights in BF16 and int8.

    Raises:
        ConfigError: there is no compiled library; the message says why.
    """

    def __init__(
        self, model: GPT, *, n_slots: int, weights: str, n_threads: int | None = None, matrix_unit: bool = True
    ) -> None:
        library = load_decoder()
        if isinstance(library, str):
            raise ConfigError(f"the compiled decoder cannot be used: {library}")
        self._forward, config = library.forward, model.config
        self._kept: list[Any] = [library, model]
        self.n_slots, self.vocab_size = n_slots, model.vocab_size
        n_positions = _whole(config.context_length)
        n_kv_heads, d_head = config.n_kv_heads or config.n_heads, config.d_head or config.d_model // config.n_heads
        cache = (config.n_layers, n_slots, n_kv_heads, n_positions * _whole(d_head))
        dtype = torch.float32 if weights == "fp32" else torch.bfloat16
        cache_bytes = math.prod(cache) * dtype.itemsize + 64
        self._arena = _Arena(_packed_bytes(model, weights) + 2 * cache_bytes)
        self._keys, self._values = self._arena.place(cache, dtype), self._arena.place(cache, dtype)
        self._kind = weights
        self._has_tiles = matrix_unit and weights != "fp32" and bool(library.has_tiles())
        layers = (_Layer * config.n_layers)(*(self._layer(block) for block in model.blocks))  # type: ignore[arg-type]
        self._kept.append(layers)
        self._model = _Model(
            n_layers=config.n_layers, n_heads=config.n_heads, n_kv_heads=n_kv_heads, d_model=config.d_model,
            d_head=d_head, d_ff=config.d_ff or 0, n_rows_max=_MOST_ROWS, n_slots=n_slots, n_positions=n_positions,
            n_threads=n_threads or _useful_threads(model, weights), kind=KINDS[weights],
            is_rms=config.norm == "rmsnorm", cache_kind=KINDS["fp32" if weights == "fp32" else "bf16"],
            k_stride=_whole(d_head), tiles=self._has_tiles, eps=config.norm_eps,
            embedding=self._keep(model.token_embedding.weight),
            places=self._keep(model.position_embedding.weight) if model.position_embedding is not None else None,
            cos=self._keep(model.cos) if model.position_embedding is None else None,
            sin=self._keep(model.sin) if model.position_embedding is None else None,
            layers=ctypes.addressof(layers), norm=self._norm(model.norm), head=self._matrix([model.lm_head]),
            keys=self._keys.data_ptr(), values=self._values.data_ptr(),
        )  # fmt: skip
        library.scratch_floats.restype = ctypes.c_int64
        scratch = torch.zeros(library.scratch_floats(ctypes.byref(self._model)))
        self._model.scratch = self._keep(scratch)
        self._row_stride = self._model.head.n_out
        self._logits = torch.empty(n_slots, self._row_stride)  # kept: new memory for each step would have to be zeroed

    def read(self, slots: Sequence[int], rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Float[Tensor, "B V"]:
        """Add tokens to slots.

        Args:
            slots: which; each once.
            rows: the new tokens of each, at least one.
            starts: positions that each holds already.

        Returns:
            The logits after the last new token of each slot, until the next call, which overwrites them.
        """
        logits = self._logits[: len(slots)]
        for chunk in _chunks(slots, rows, starts):
            ids, at, places, last, where = chunk
            n_logits = len(last)
            target = torch.empty(n_logits, self._row_stride) if n_logits != len(slots) else logits
            self._forward(
                ctypes.byref(self._model), ctypes.c_int64(len(ids)), _array(ids), _array(at), _array(places),
                ctypes.c_int64(len(set(at)) < len(at)), ctypes.c_int64(n_logits), _array(last),
                ctypes.c_void_p(target.data_ptr()), ctypes.c_int64(self._row_stride),
            )  # fmt: skip
            if target is not logits and n_logits:
                logits[where] = target
        return logits[:, : self.vocab_size]

    def copy(self, source: int, target: int) -> None:
        """Give a slot what another one holds."""
        self._keys[:, target] = self._keys[:, source]
        self._values[:, target] = self._values[:, source]

    def _layer(self, block: Block) -> _Layer:
        attention, mlp = block.attention, block.mlp
        assert isinstance(attention, Attention)
        return _Layer(
            attention_norm=self._norm(block.attention_norm),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            mlp_norm=self._norm(block.mlp_norm),
            qkv=self._matrix([attention.q, attention.k, attention.v]),
            out=self._matrix([attention.out]),
            up=self._matrix([mlp.up]),
            gate=self._matrix([mlp.gate]) if mlp.gate is not None else _Matrix(),
            down=self._matrix([mlp.down]),
        )

    def _norm(self, norm: nn.Module) -> _Norm:
        if isinstance(norm, nn.Identity):
            return _Norm()
        bias = getattr(norm, "bias", None)
        assert isinstance(norm.weight, Tensor)
        return _Norm(self._keep(norm.weight), None if bias is None else self._keep(bias))

    def _matrix(self, linears: Sequence[nn.Linear]) -> _Matrix:
        """One matrix of all their outputs, in the order in which `decode.cpp` reads it."""
        weight = torch.cat([linear.weight.detach().float() for linear in linears])  # [out, in]
        n_in = weight.shape[1]
        scale = bias = None
        if linears[0].bias is not None:
            bias = self._keep(_padded(torch.cat([linear.bias.detach().float() for linear in linears]), self._has_tiles))
        if self._kind == "int8":
            weight, scales = quantize(weight)
            scale = self._keep(_padded(scales, self._has_tiles))
        elif self._kind == "bf16":
            weight = weight.bfloat16()
        weight = _padded(weight, self._has_tiles)
        ordered = as_tiles(weight) if self._has_tiles else as_blocks(weight)
        return _Matrix(self._arena.add(ordered), scale, bias, len(weight), n_in)

    def _keep(self, tensor: Tensor) -> int:
        """The address of its numbers, in FP32, for as long as this reader lives."""
        self._kept.append(tensor := tensor.detach().float().contiguous())
        return tensor.data_ptr()


def quantize(weight: Float[Tensor, "O I"]) -> tuple[Tensor, Float[Tensor, " O"]]:
    """A matrix as int8 and a scale per output: symmetric, the largest weight of a row becomes 127."""
    scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def as_blocks(weight: Tensor) -> Tensor:
    """A matrix [outputs, inputs] in the order of `products.h`: [outputs / 16, inputs, 16]."""
    return weight.view(-1, _LANES, weight.shape[1]).transpose(1, 2)


def as_tiles(weight: Tensor) -> Tensor:
    """A matrix [outputs, inputs] in BF16 or int8 in the order of `tiles.h`: [outputs / 32, inputs / (32 or 64), 2, 16,
    16, 2 or 4].
    """
    n_inputs = _TILE_INPUT_BYTES // weight.element_size()
    padded = nn.functional.pad(weight, (0, -weight.shape[1] % n_inputs))
    return padded.view(-1, 2, _LANES, padded.shape[1] // n_inputs, _LANES, n_inputs // _LANES).permute(0, 3, 1, 4, 2, 5)


def _padded(tensor: Tensor, has_tiles: bool) -> Tensor:
    """With zeros after its outputs, the first axis, up to whole blocks."""
    n_zeros = -len(tensor) % (_TILE_OUTPUTS if has_tiles else _LANES)
    return torch.cat([tensor, tensor.new_zeros(n_zeros, *tensor.shape[1:])])


class _Arena:
    """One piece of memory for matrices and cache, in huge pages where the system has them."""

    def __init__(self, n_bytes: int) -> None:
        # Private, since shared memory gets no huge pages; with room for alignment, and for reading ahead.
        self._map = mmap.mmap(-1, n_bytes + 2 * _HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._used = -self._bytes.data_ptr() % _HUGE_BYTES

    def place(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of zeros in it."""
        n_bytes = math.prod(shape) * dtype.itemsize
        place = self._bytes[self._used : self._used + n_bytes].view(dtype).view(*shape)
        self._used += -(-n_bytes // 64) * 64
        return place

    def add(self, tensor: Tensor) -> int:
        """Copy a tensor in; where it lies."""
        return self.place(tensor.shape, tensor.dtype).copy_(tensor).data_ptr()


def _whole(n: int) -> int:
    """Rounded up to whole vectors."""
    return -(-n // _LANES) * _LANES


def _packed_bytes(model: GPT, weights: str) -> int:
    n_bytes = _WEIGHT_BYTES[weights]
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum((linear.out_features + _TILE_OUTPUTS) * (linear.in_features * n_bytes + 64) for linear in linears)


def _useful_threads(model: GPT, weights: str) -> int:
    """PyTorch's threads, but so few that each has enough to read between two meetings."""
    return max(1, min(torch.get_num_threads(), _packed_bytes(model, weights) // _BYTES_PER_THREAD))


_Chunk = tuple[list[int], list[int], list[int], list[int], list[int]]


def _chunks(slots: Sequence[int], rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Iterator[_Chunk]:
    """At most 128 tokens at a time: ids, slots, positions; the rows whose logits are wanted, and whose those are."""
    ids: list[int] = []
    at: list[int] = []
    places: list[int] = []
    last: list[int] = []
    where: list[int] = []
    for i, (slot, row, start) in enumerate(zip(slots, rows, starts, strict=True)):
        for j, token_id in enumerate(row):
            if len(ids) == _MOST_ROWS:
                yield ids, at, places, last, where
                ids, at, places, last, where = [], [], [], [], []
            if j == len(row) - 1:
                last.append(len(ids))
                where.append(i)
            ids.append(token_id)
            at.append(slot)
            places.append(start + j)
    yield ids, at, places, last, where


def _array(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)
