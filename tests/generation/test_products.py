"""The compiled products, in vector registers and in the matrix unit, beside a plain one in FP64."""

import ctypes

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from generation_helpers import BACKENDS
from smalllm.generation.native import KINDS, _Matrix, _padded, as_blocks, as_tiles, load_decoder, quantize

LIBRARY = load_decoder()
HAS_TILES = not isinstance(LIBRARY, str) and bool(LIBRARY.has_tiles())
pytestmark = pytest.mark.skipif("compiled" not in BACKENDS, reason="decode.cpp cannot be compiled here")
needs_tiles = pytest.mark.skipif(not HAS_TILES, reason="this CPU has no AMX, or it may not be used")
WAYS = [("fp32", False), ("bf16", False), ("int8", False)] + [("bf16", True), ("int8", True)] * HAS_TILES
STEPS = 127 * 256 + 127  # of a row's inputs in the matrix unit, for int8


def narrowed(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The numbers that are stored, and their scales."""
    if kind == "int8":
        return quantize(weight)
    return (weight.bfloat16() if kind == "bf16" else weight), torch.ones(len(weight))


def product(stored: Tensor, scale: Tensor, bias: Tensor, x: Tensor, kind: str, has_tiles: bool) -> Tensor:
    """As the compiled decoder computes it [rows, outputs]."""
    assert not isinstance(LIBRARY, str)
    weight, scales, biases = (_padded(one, has_tiles) for one in (stored, scale, bias))
    ordered = (as_tiles(weight) if has_tiles else as_blocks(weight)).contiguous()
    matrix = _Matrix(
        ordered.data_ptr(), scales.data_ptr() if kind == "int8" else None, biases.data_ptr(), len(weight), x.shape[1]
    )
    y = torch.empty(len(x), len(weight))
    packed = torch.full(((len(x) + 16) * (1 + x.shape[1] + 64),), torch.nan)  # nothing of it may be taken for an input
    LIBRARY.multiply(
        ctypes.byref(matrix), ctypes.c_int64(KINDS[kind]), ctypes.c_int64(has_tiles), ctypes.c_int64(len(x)),
        ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(y.shape[1]),
        ctypes.c_void_p(packed.data_ptr()),
    )  # fmt: skip
    return y[:, : len(stored)]


def error(y: Tensor, stored: Tensor, scale: Tensor, bias: Tensor, x: Tensor, kind: str, has_tiles: bool) -> Tensor:
    """The largest error as a share of what rounding may make [at most 1]."""
    w = stored.double() * scale.double()[:, None]
    plain = x.double() @ w.T + bias
    size = x.double().abs() @ w.abs().T  # of what is summed
    allowed = (len(w[0]) + 4) * 2**-24 * (size + bias.abs())  # sums in FP32, in any order
    if has_tiles and kind == "bf16":
        allowed += 2**-15 * size  # 8 bits of each input, cut off, and 8 of what is left, rounded
    if has_tiles and kind == "int8":
        allowed += x.abs().amax(1, keepdim=True) / STEPS / 2 * w.abs().sum(1)
    return ((y - plain).abs() / (allowed + 1e-30)).max()


@pytest.mark.parametrize(("kind", "has_tiles"), WAYS)
@given(
    n_out=st.integers(1, 70),
    n_in=st.integers(1, 200),
    n_rows=st.integers(1, 40),
    magnitude=st.integers(-6, 6),
    seed=st.integers(0, 2**31),
)
@example(n_out=32, n_in=64, n_rows=16, magnitude=0, seed=0)
@example(n_out=33, n_in=65, n_rows=17, magnitude=0, seed=0)
def test_products_are_plain_ones_and_a_row_is_the_same_alone(
    kind: str, has_tiles: bool, n_out: int, n_in: int, n_rows: int, magnitude: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, n_in, generator=generator) * 10.0**magnitude
    x[0, 0] = 0.0
    stored, scale = narrowed(torch.randn(n_out, n_in, generator=generator), kind)
    bias = torch.randn(n_out, generator=generator)
    y = product(stored, scale, bias, x, kind, has_tiles)
    assert error(y, stored, scale, bias, x, kind, has_tiles) <= 1
    for r in (0, n_rows // 2, n_rows - 1):
        assert torch.equal(product(stored, scale, bias, x[r : r + 1], kind, has_tiles)[0], y[r])


@pytest.mark.parametrize(("kind", "has_tiles"), WAYS)
def test_inputs_of_8_bits_or_another_order_of_weights_would_be_noticed(kind: str, has_tiles: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 70, generator=generator)
    stored, scale = narrowed(torch.randn(40, 70, generator=generator), kind)
    bias = torch.zeros(40)
    step = x.abs().amax(1, keepdim=True) / 127
    for other in (x.bfloat16().float(), (x / step).round() * step):
        y = product(stored, scale, bias, other, kind, has_tiles)
        assert error(y, stored, scale, bias, x, kind, has_tiles) > 1
    y = product(stored.roll(1, 1), scale, bias, x, kind, has_tiles)
    assert error(y, stored, scale, bias, x, kind, has_tiles) > 100


@pytest.mark.parametrize(("kind", "has_tiles"), WAYS)
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none_and_its_own(kind: str, has_tiles: bool, strange: float) -> None:
    x = torch.ones(9, 40)
    x[3, 5] = strange
    stored, scale = narrowed(torch.ones(20, 40), kind)
    y = product(stored, scale, torch.zeros(20), x, kind, has_tiles)
    assert not y[3].isfinite().any() and y[[0, 1, 2, 4, 5, 6, 7, 8]].isfinite().all()


@needs_tiles
def test_rows_of_zeros_and_of_the_smallest_numbers() -> None:
    for kind in ("bf16", "int8"):
        stored, scale = narrowed(torch.ones(5, 7), kind)
        for x in (torch.zeros(2, 7), torch.full((2, 7), 1e-42)):
            y = product(stored, scale, torch.ones(5), x, kind, True)
            assert torch.equal(y, torch.ones(2, 5))
