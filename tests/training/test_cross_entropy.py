"""The loss written for compiled CPU kernels, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalllm.data.padded import IGNORED
from smalllm.training.cross_entropy import cross_entropy


def case(*, n_ignored: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (6 * torch.randn(40, 97, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(97, (40,), generator=generator)
    targets[torch.randperm(40, generator=generator)[:n_ignored]] = IGNORED
    return logits, targets


@pytest.mark.parametrize("n_ignored", [0, 1, 25, 39])
def test_loss_and_gradient_equal_pytorchs(n_ignored: int) -> None:
    logits, targets = case(n_ignored=n_ignored)
    ours, theirs = cross_entropy(logits, targets), F.cross_entropy(logits, targets, ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(3.0 * loss, logits)[0] for loss in (ours, theirs)))


def test_the_gradient_of_bf16_logits_is_pytorchs_rounded_once() -> None:
    logits, targets = case(n_ignored=5, dtype=torch.bfloat16)
    (ours,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits.float(), targets, ignore_index=IGNORED), logits)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-9)


def test_a_target_that_is_not_corrected_is_noticed() -> None:
    """The partner: the gradient without its ones at the targets."""
    logits, targets = case(n_ignored=0)
    (ours,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    assert not torch.allclose(ours, logits.softmax(-1) / len(targets))


def test_logits_that_are_not_finite_give_a_loss_that_is_not() -> None:
    logits, targets = case(n_ignored=0)
    for bad in (float("nan"), float("inf")):
        spoiled = logits.detach().clone()
        spoiled[3, 5] = bad
        assert not cross_entropy(spoiled, targets).isfinite()
