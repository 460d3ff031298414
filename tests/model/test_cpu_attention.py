"""Attention in blocks gives what PyTorch's does, and its gradients; with dropout, what the definition does."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalllm.model import cpu_attention
from smalllm.model.dropout import kept, numbered

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def outputs_and_gradients(attend: Attend, n_positions: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad_y = (torch.randn(2, 3, n_positions, 16, generator=generator) for _ in range(4))
    inputs = [t.requires_grad_() for t in (q, k, v)]
    y = attend(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y)]


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def random_mask(n_positions: int) -> Tensor:
    """Documents of about 40 positions, which see nothing of each other [2 1 T T]."""
    numbers = (torch.rand(2, n_positions, generator=torch.Generator().manual_seed(1)) < 1 / 40).cumsum(1)
    return (numbers[:, None, :, None] == numbers[:, None, None, :]).tril()


# Less than a block, whole blocks, and a rest after them.
@pytest.mark.parametrize("n_positions", [1, 100, 128, 256, 300])
def test_attention_and_its_gradients_equal_pytorchs(n_positions: int) -> None:
    found = outputs_and_gradients(cpu_attention.attend, n_positions)
    for ours, theirs in zip(found, outputs_and_gradients(reference, n_positions), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_attention_that_sees_the_future_is_noticed() -> None:
    def sees_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    pairs = zip(outputs_and_gradients(cpu_attention.attend, 300), outputs_and_gradients(sees_all, 300), strict=True)
    assert not any(torch.allclose(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("n_positions", [1, 100, 128, 256, 300])
def test_masked_attention_and_its_gradients_equal_pytorchs(n_positions: int) -> None:
    mask = random_mask(n_positions)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return cpu_attention.attend(q, k, v, mask)

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    found, causal = outputs_and_gradients(ours, n_positions), outputs_and_gradients(cpu_attention.attend, n_positions)
    for one, other in zip(found, outputs_and_gradients(theirs, n_positions), strict=True):
        torch.testing.assert_close(one, other)
    if n_positions >= 100:  # there are several documents
        assert not any(torch.allclose(one, other) for one, other in zip(found, causal, strict=True))


def test_what_the_mask_hides_cannot_overflow() -> None:
    """A hidden score far above the seen ones has an infinite exponential, which must not reach a gradient."""
    q = k = torch.tensor([[[[1.0], [100.0], [100.0]]]], requires_grad=True)
    v = torch.ones(1, 1, 3, 1, requires_grad=True)
    mask = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)[None, None]
    gradients = torch.autograd.grad(cpu_attention.attend(q, k, v, mask).sum(), (k, v))
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[1].flatten().tolist() == [2.0, 0.0, 1.0]


RATE, KEY = 0.3, torch.tensor([123_456_789, -987_654_321], dtype=torch.int32)


def dropped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, key: Tensor) -> Tensor:
    """The definition: a softmax, of which a share is set to 0, times the values."""
    n = q.shape[2]
    seen = torch.ones(n, n, dtype=torch.bool).tril() if mask is None else mask
    scores = (q @ k.transpose(-1, -2) / q.shape[3] ** 0.5).masked_fill(~seen, -torch.inf)
    share = kept(numbered(scores.shape, device=q.device), RATE, key) / (1 - RATE)
    return (scores.softmax(-1) * share) @ v


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("n_positions", [1, 100, 128, 256, 300])
def test_attention_with_dropout_and_its_gradients_equal_the_definition(n_positions: int, is_masked: bool) -> None:
    mask = random_mask(n_positions) if is_masked else None

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return cpu_attention.attend(q, k, v, mask, rate=RATE, key=KEY)

    found = outputs_and_gradients(ours, n_positions)
    expected = outputs_and_gradients(lambda q, k, v: dropped(q, k, v, mask, KEY), n_positions)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_other_dropout_is_noticed() -> None:
    found = outputs_and_gradients(lambda q, k, v: dropped(q, k, v, None, KEY), 300)
    other = outputs_and_gradients(lambda q, k, v: cpu_attention.attend(q, k, v, rate=RATE, key=KEY + 1), 300)
    assert not any(torch.allclose(one, two) for one, two in zip(found, other, strict=True))
