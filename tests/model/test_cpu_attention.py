"""The blockwise backward pass gives the gradients of PyTorch's own attention."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalllm.model import cpu_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def outputs_and_gradients(attend: Attend, n_positions: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad_y = (torch.randn(2, 3, n_positions, 16, generator=generator) for _ in range(4))
    inputs = [t.requires_grad_() for t in (q, k, v)]
    y = attend(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y)]


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


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
