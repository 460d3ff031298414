"""Attention in the matrix unit gives what the definition does in FP64, as exactly as PyTorch's kernel, to the same bits
however many threads there are; and it is what the model uses where it can be had.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.model import cpu_attention, tile_attention
from smalllm.model.attention_kernel import find_attention_kernel
from smalllm.model.dropout import kept, numbered
from smalllm.model.gpt import GPT

pytestmark = pytest.mark.skipif(not tile_attention.is_available(), reason="no AMX unit, or no C++ compiler")
KEY = torch.tensor([123_456_789, -987_654_321], dtype=torch.int32)
LAYOUTS = {"heads of a position together": (0, 2, 1, 3), "positions of a head together": (0, 1, 2, 3)}


def draw(
    n_positions: int, d_head: int, *, n_heads: int = 4, n_kv_heads: int = 2, scale: float = 1.0, layout: str = ""
) -> list[Tensor]:
    """Queries, keys, values and a gradient."""
    generator = torch.Generator().manual_seed(n_positions + d_head)
    tensors = []
    for n, by in ((n_heads, scale), (n_kv_heads, scale), (n_kv_heads, 1.0), (n_heads, 1.0)):
        x = (by * torch.randn(2, n, n_positions, d_head, generator=generator)).to(torch.bfloat16)
        order = LAYOUTS[layout or "heads of a position together"]
        tensors.append(x.permute(order).contiguous().permute(order))
    return tensors


def random_mask(n_positions: int) -> Tensor:
    """Documents of about 40 positions, which see nothing of each other [2 1 T T]."""
    numbers = (torch.rand(2, n_positions, generator=torch.Generator().manual_seed(1)) < 1 / 40).cumsum(1)
    return (numbers[:, None, :, None] == numbers[:, None, None, :]).tril()


def outputs_and_gradients(attend: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in tensors[:3]]
    y = attend(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, tensors[3].to(y.dtype))]


def defined(tensors: list[Tensor], mask: Tensor | None = None, rate: float = 0.0, key: Tensor = KEY) -> list[Tensor]:
    """The definition in FP64: a softmax, of which a share is set to 0, times the values."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, repeats = q.shape[2], q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        seen = torch.ones(n, n, dtype=torch.bool).tril() if mask is None else mask
        scores = (q @ k.transpose(-1, -2) / q.shape[3] ** 0.5).masked_fill(~seen, -torch.inf)
        share = kept(numbered(scores.shape, device=q.device), rate, key) / (1 - rate) if rate else 1.0
        return (scores.softmax(-1) * share) @ v

    return outputs_and_gradients(attend, [t.double() for t in tensors])


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """The largest difference of each, by the largest number of all: a gradient may be 0 everywhere."""
    most = max(float(t.abs().max()) for t in expected)
    return [float((one.double() - other).abs().max()) / most for one, other in zip(found, expected, strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    n_positions=st.integers(1, 300),
    d_head=st.sampled_from([32, 64, 96, 128]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1), (2, 2)]),
    is_masked=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_it_equals_the_definition(
    n_positions: int, d_head: int, heads: tuple[int, int], is_masked: bool, rate: float
) -> None:
    tensors = draw(n_positions, d_head, n_heads=heads[0], n_kv_heads=heads[1])
    mask = random_mask(n_positions) if is_masked else None
    found = outputs_and_gradients(
        lambda q, k, v: tile_attention.attend(q, k, v, mask, rate=rate, key=KEY if rate else None), tensors
    )
    assert max(errors(found, defined(tensors, mask, rate))) < 0.015


@pytest.mark.parametrize("change", ["what is dropped", "the mask", "the share"])
def test_what_differs_is_noticed(change: str) -> None:
    tensors = draw(300, 64)
    found = outputs_and_gradients(
        lambda q, k, v: tile_attention.attend(q, k, v, random_mask(300), rate=0.1, key=KEY), tensors
    )
    key, rate = KEY + (change == "what is dropped"), 0.12 if change == "the share" else 0.1
    mask = random_mask(300) if change != "the mask" else None
    assert min(errors(found, defined(tensors, mask, rate, key))) > 0.03


@pytest.mark.parametrize("scale", [1.0, 3.0, 6.0])
def test_it_is_as_exact_as_pytorchs_kernel(scale: float) -> None:
    """Up to scores of about 150: the sums of products stay FP32."""
    tensors = draw(512, 64, n_kv_heads=4, scale=scale)
    exact = defined(tensors)
    ours = errors(outputs_and_gradients(tile_attention.attend, tensors), exact)
    theirs = errors(
        outputs_and_gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), tensors), exact
    )
    assert all(one <= 1.3 * other + 1e-4 for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def test_threads_and_layouts_do_not_change_a_bit(restored_threads: None) -> None:
    results = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        for layout in LAYOUTS:
            tensors = draw(200, 64, layout=layout)
            results.append(outputs_and_gradients(lambda q, k, v: tile_attention.attend(q, k, v), tensors))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_a_number_that_is_none_stays_visible() -> None:
    """Else a diverged model would look sound. One of a key reaches only the queries that see it."""
    q, k, v, grad = draw(100, 32)
    k[0, 1, 40, 3] = math.nan
    y, *grads = outputs_and_gradients(tile_attention.attend, [q, k, v, grad])
    assert y[0, 2:, 40:].isnan().all() and all(g.isnan().any() for g in grads)
    assert y[0, 2:, :40].isfinite().all() and y[0, :2].isfinite().all() and y[1].isfinite().all()


def test_it_is_an_operator_as_pytorch_wants_them() -> None:
    """Shapes and strides that are promised to the compiler, autograd, and no input that is changed."""
    q, k, v, _ = (t.requires_grad_() for t in draw(40, 32))
    torch.library.opcheck(tile_attention._attend, (q, k, v, None, 0.0, None))
    torch.library.opcheck(tile_attention._attend, (q, k, v, random_mask(40), 0.3, KEY))


def test_the_model_uses_it_for_whole_sequences_in_bf16(tiny_config: ModelConfig) -> None:
    q = torch.zeros(1, 2, 8, 32, dtype=torch.bfloat16)
    assert cpu_attention.pays(q, rate=0.0, key=None) and cpu_attention.pays(q, rate=0.1, key=KEY)
    assert not cpu_attention.pays(q.float(), rate=0.0, key=None)
    assert not cpu_attention.pays(q[..., :16], rate=0.0, key=None)
    assert not cpu_attention.pays(q, rate=0.1, key=None), "without keys PyTorch draws what is dropped"
    assert find_attention_kernel("cpu", "bf16", n_heads=2, d_head=32, n_positions=8) == "tiles"
    assert find_attention_kernel("cpu", "fp32", n_heads=2, d_head=32, n_positions=8) == "flash"
    config = replace(tiny_config, n_heads=2, n_kv_heads=1, d_head=32, d_model=64, dropout=0.0)
    model = GPT(config, vocab_size=11)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    with torch.profiler.profile() as profile, torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    seen = [event.name for event in profile.events() if "tile_attention" in event.name]
    assert len(seen) >= 2 * config.n_layers, seen
