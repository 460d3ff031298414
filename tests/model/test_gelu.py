"""GELU as it is compiled on a CPU is PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from smalllm.model.gpt import gelu


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients_equal_pytorchs(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4_001), torch.tensor([-1e4, 0.0, 1e4])]).to(dtype).requires_grad_()
    ours, theirs = gelu(x), F.gelu(x, approximate="tanh")
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))


@pytest.mark.usefixtures("compiling")
def test_the_exact_gelu_is_told_apart() -> None:
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    assert (gelu(x) - F.gelu(x)).abs().max() > 1e-4
