"""The loss in parts, with the gradients that come with it, against PyTorch's on all logits at once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalllm.data.padded import IGNORED
from smalllm.model import cross_entropy
from smalllm.model.cross_entropy import fitting_parts, linear_cross_entropy

VOCAB_SIZE, N_ROWS = 97, 128  # the head's rows past the vocabulary take no part


def case(*, n_ignored: int = 0, dtype: torch.dtype = torch.float64, n_tokens: int = 40) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=generator).to(dtype) for n in (n_tokens, N_ROWS))
    targets = torch.randint(VOCAB_SIZE, (n_tokens,), generator=generator)
    targets[torch.randperm(n_tokens, generator=generator)[:n_ignored]] = IGNORED
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.t())[:, :VOCAB_SIZE], targets, ignore_index=IGNORED)


def in_parts(
    hidden: Tensor, weight: Tensor, targets: Tensor, n_parts: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    return linear_cross_entropy(
        hidden,
        weight,
        targets,
        vocab_size=VOCAB_SIZE,
        ignore_index=IGNORED,
        dtype=dtype or hidden.dtype,
        n_parts=n_parts,
    )


@settings(deadline=None)
@given(n_tokens=st.integers(1, 60), n_parts=st.integers(1, 80), ignored=st.floats(0, 1, exclude_max=True))
def test_loss_and_gradients_equal_pytorchs(n_tokens: int, n_parts: int, ignored: float) -> None:
    hidden, weight, targets = case(n_ignored=int(ignored * n_tokens), n_tokens=n_tokens)
    ours, theirs = in_parts(hidden, weight, targets, n_parts), plain(hidden, weight, targets)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    found, expected = (torch.autograd.grad(3.0 * loss, (hidden, weight)) for loss in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # reduced in FP32
    assert (found[1][VOCAB_SIZE:] == 0).all()


@pytest.mark.parametrize("is_added_at_once", [False, True])
@pytest.mark.parametrize("n_parts", [1, 3, 7, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_pytorchs(
    dtype: torch.dtype, n_parts: int, is_added_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "SUMMED_BYTES", 0 if is_added_at_once else 1 << 30)
    hidden, weight, targets = case(n_ignored=5, dtype=torch.float32)
    exact_inputs = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    exact = torch.autograd.grad(plain(*exact_inputs, targets), exact_inputs)

    def errors(loss: Tensor) -> list[float]:
        grads = torch.autograd.grad(loss, (hidden, weight))
        return [float((one.double() - other).norm() / other.norm()) for one, other in zip(grads, exact, strict=True)]

    logits = (hidden.to(dtype) @ weight.to(dtype).t())[:, :VOCAB_SIZE]
    theirs = errors(F.cross_entropy(logits.float(), targets, ignore_index=IGNORED))
    ours = errors(in_parts(hidden, weight, targets, n_parts, dtype))
    assert all(one <= 1.05 * other for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


def test_small_gradients_of_fp16_are_not_lost() -> None:
    """They are made without the loss scale, before they are divided by the number of targets."""
    hidden, weight, targets = case(dtype=torch.float16, n_tokens=4000)
    scale = 2.0**16
    found = torch.autograd.grad(scale * in_parts(hidden, weight, targets, 3), (hidden, weight))
    doubles = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    for one, other in zip(found, torch.autograd.grad(plain(*doubles, targets), doubles), strict=True):
        assert float((one.double() / scale - other).norm() / other.norm()) < 2e-3


def test_sums_over_many_rows_do_not_overflow_fp16() -> None:
    """All rows want the same token, which none expects: its gradient is a sum that grows with their number."""
    hidden, weight = torch.full((20_000, 8), 6.0, requires_grad=True), torch.zeros(N_ROWS, 8, requires_grad=True)
    loss = in_parts(hidden, weight, torch.zeros(20_000, dtype=torch.long), dtype=torch.float16)
    (grad,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(grad[0], torch.full((8,), 6.0 * (1 / VOCAB_SIZE - 1)), rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_backward_pass_gives_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = case(dtype=torch.float32)
    for most in (0, 8000, 1 << 30):  # all are added up at once; some; none
        monkeypatch.setattr(cross_entropy, "SUMMED_BYTES", most)
        loss = in_parts(hidden, weight, targets, 5, dtype)
        first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
        assert all(map(torch.equal, first, second))


def test_a_target_that_is_not_corrected_is_noticed() -> None:
    """The partner: the gradient without its ones at the targets."""
    hidden, weight, targets = case()
    (ours,) = torch.autograd.grad(in_parts(hidden, weight, targets), hidden)
    probabilities = (hidden @ weight.t())[:, :VOCAB_SIZE].softmax(-1)
    assert not torch.allclose(ours, probabilities @ weight[:VOCAB_SIZE] / len(targets))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_a_loss_that_is_not(bad: float) -> None:
    hidden, weight, targets = case()
    spoiled = hidden.detach().clone()
    spoiled[3, 5] = bad
    assert not in_parts(spoiled, weight, targets, 4).isfinite()


def test_parts_are_32_mib_at_most_and_not_too_many() -> None:
    assert fitting_parts(4096, 16_000, 384, number_bytes=2) == 4
    assert fitting_parts(4096, 320, 384, number_bytes=2) == 1
    assert fitting_parts(4096, 50_304, 768, number_bytes=2) == 5  # of 13: each has 77 MB of gradients to add
    assert fitting_parts(16, 50_304, 768, number_bytes=4) == 1
