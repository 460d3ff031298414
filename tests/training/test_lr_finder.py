"""The range test: what it does to the rates, when it stops, and what it concludes from a curve."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalllm.config import ModelConfig, OptimConfig
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, set_lr
from smalllm.training.lr_finder import SMOOTHING, RangeTest, rising_rates, run_range_test, suggest
from smalllm.training.step import make_loss_function, train_step

VOCAB, CONTEXT, WINDOWS = 16, 16, 8
MODEL = ModelConfig(n_layers=1, n_heads=2, d_model=32, context_length=CONTEXT)
LOSS = make_loss_function("cpu", "fp32", compile_it=False)
SUCCESSORS = torch.randint(VOCAB, (VOCAB, 3), generator=torch.Generator().manual_seed(0))


def batches(cursor: int) -> Sequence[tuple[Tensor, Tensor]]:
    """Texts in which each token is followed by one of three: there is something to learn, and noise."""
    generator = torch.Generator().manual_seed(cursor)
    rows = torch.randint(VOCAB, (WINDOWS, CONTEXT + 1), generator=generator)
    draws = torch.randint(3, rows.shape, generator=generator)
    for t in range(CONTEXT):
        rows[:, t + 1] = SUCCESSORS[rows[:, t], draws[:, t]]
    return [(rows[:4, :-1], rows[:4, 1:]), (rows[4:, :-1], rows[4:, 1:])]


def measure(
    rates: Sequence[float], *, loss_function: Any = LOSS, optim: OptimConfig | None = None, is_scaled: bool = False
) -> RangeTest:
    optim = optim or OptimConfig()
    model = GPT(MODEL, vocab_size=VOCAB)
    init_weights(model, seed=1)
    optimizers = build_optimizers(model, optim)
    options: dict[str, Any] = {"n_windows": WINDOWS, "seed": 1, "clip_norm": 1.0, "is_scaled": is_scaled}
    return run_range_test(model, optimizers, batches, loss_function, rates=rates, peak_lr=optim.lr, **options)


def test_rates_rise_by_one_factor() -> None:
    rates = rising_rates(1e-5, 1e-1, steps=5)
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_suggestion_is_near_the_best_constant_rate(kind: Any) -> None:
    optim = OptimConfig(kind=kind, lr=1e-3, muon_lr=3e-3, weight_decay=0.0)
    found = suggest(measure(rising_rates(1e-6, 10.0, steps=100), optim=optim))
    assert found.lr is not None
    final = {lr: constant_rate(lr, optim) for lr in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
    best = min(final, key=lambda lr: final[lr])
    assert best / 10 <= found.lr <= best * 10
    assert min(constant_rate(found.lr, optim), final[best]) < final[1e-5] - 0.5  # there was something to find


def constant_rate(lr: float, optim: OptimConfig) -> float:
    """Mean of the last ten of 60 losses at a rate."""
    model = GPT(MODEL, vocab_size=VOCAB)
    init_weights(model, seed=1)
    optimizers = build_optimizers(model, optim)
    set_lr(optimizers, lr / optim.lr)
    losses = []
    for step in range(60):
        update = train_step(model, optimizers, batches(step * WINDOWS), LOSS, seed=1, step=step, clip_norm=1.0)
        losses.append(update.loss)
    return float(np.mean(losses[-10:]))


def test_all_rates_rise_in_proportion() -> None:
    optim = OptimConfig(kind="muon", lr=1e-3, muon_lr=2e-2)
    model = GPT(MODEL, vocab_size=VOCAB)
    init_weights(model, seed=1)
    optimizers, seen = build_optimizers(model, optim), []

    def looking(cursor: int) -> Sequence[tuple[Tensor, Tensor]]:
        seen.append((cursor, *(group["lr"] for optimizer in optimizers for group in optimizer.param_groups)))
        return batches(cursor)

    options: dict[str, Any] = {"n_windows": WINDOWS, "seed": 1, "clip_norm": 1.0}
    run_range_test(model, optimizers, looking, LOSS, rates=[1e-4, 1e-3], peak_lr=1e-3, **options)
    assert [cursor for cursor, *_ in seen] == [0, WINDOWS]
    assert seen[0][1:] == pytest.approx((1e-4, 1e-4, 2e-3)) and seen[1][1:] == pytest.approx((1e-3, 1e-3, 2e-2))


def test_smoothing_has_no_pull_to_zero() -> None:
    found = measure([1e-9] * 30)
    weights = [SMOOTHING ** (29 - i) for i in range(30)]
    assert found.smoothed[0] == pytest.approx(found.losses[0])
    assert found.smoothed[-1] == pytest.approx(np.average(found.losses, weights=weights))


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    calls = 0

    def breaks(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return LOSS(model, inputs, targets) * (float("nan") if calls > 24 else 1.0)

    found = measure(rising_rates(1e-5, 1e-3, steps=50), loss_function=breaks)
    assert found.stopped == "not finite" and len(found.losses) == len(found.rates) == 12


def test_a_loss_that_runs_away_ends_the_test() -> None:
    found = measure(rising_rates(1e-5, 1e6, steps=120), optim=OptimConfig(weight_decay=0.0))
    assert found.stopped == "diverged" and len(found.losses) < 120
    assert found.smoothed[-1] > 4 * min(found.smoothed) >= found.smoothed[-2]


# --- what is concluded


def curve(*points: tuple[float, float], steps: int = 100, noise: float = 0.02, stopped: str = "complete") -> RangeTest:
    """A loss that goes straight from point to point (exponent of the rate, loss), with noise."""
    exponents = np.linspace(points[0][0], points[-1][0], steps)
    smooth = np.interp(exponents, *zip(*points, strict=True))
    losses = smooth + noise * np.random.default_rng(0).standard_normal(steps)
    return RangeTest(list(10.0**exponents), list(losses), list(smooth), stopped)


def test_the_smaller_of_two_rules_is_suggested() -> None:
    early = suggest(curve((-6, 5.0), (-5, 5.0), (-4, 3.5), (-1, 3.0), (0, 9.0)))  # steep, then flat for three decades
    assert early.lowest_lr == pytest.approx(1e-1, rel=0.2)
    assert early.lr is not None and 1e-5 < early.lr < 1e-4 and early.lr == pytest.approx(early.steepest_lr, rel=0.05)
    late = suggest(curve((-6, 5.0), (-3, 4.8), (-2, 3.0), (0, 9.0)))  # steep up to where it turns
    assert late.lowest_lr == pytest.approx(1e-2, rel=0.2) and late.lr == pytest.approx(1e-3, rel=0.2)
    assert late.steepest_lr is not None and late.steepest_lr > late.lr


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (curve((-6, 5.0), (0, 5.0)), "did not fall"),
        (curve((-6, 5.0), (0, 5.0), noise=0.0), "did not fall"),
        (curve((-6, 5.0), (-2, 4.9), (0, 9.0), noise=0.5), "did not fall"),
        (curve((-3, 5.0), (0, 15.0)), "did not fall"),
        (curve((-6, 5.0), (-4, 5.0), (-3, 4.0)), "raise --max-lr"),
        (curve((-1, 5.0), (0, 50.0), steps=6, stopped="diverged"), "within ten updates"),
        (RangeTest(), "within ten updates"),
    ],
)
def test_no_number_is_made_up(measured: RangeTest, reason: str) -> None:
    found = suggest(measured)
    assert found.lr is None and reason in found.reason


def test_a_loss_that_fell_until_it_was_not_finite_is_enough() -> None:
    fallen = curve((-6, 5.0), (-3, 4.8), (-2, 3.0))
    assert suggest(fallen).lr is None
    assert suggest(replace(fallen, stopped="not finite")).lr == pytest.approx(1e-3)


def test_a_constant_loss_gives_no_suggestion() -> None:
    def constant(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return 3.0 + 0.0 * torch.stack([p.sum() for p in model.parameters()]).sum()

    found = suggest(measure(rising_rates(1e-6, 1.0, steps=30), loss_function=constant))
    assert (found.lr, found.lowest_lr, found.steepest_lr) == (None, None, None)


class Narrow(torch.autograd.Function):
    """A loss whose gradient overflows above 1024, and vanishes below 2."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.where(grad > 1024, torch.inf, torch.where(grad < 2, 0.0, grad))


def narrow_loss(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = Narrow.apply(LOSS(model, token_ids, targets))
    return loss


def test_fp16_is_scaled_as_in_training() -> None:
    rates = rising_rates(1e-4, 1e-2, steps=12)
    scaled, wide = (measure(rates, loss_function=f, is_scaled=True) for f in (narrow_loss, LOSS))
    bare = measure(rates, loss_function=narrow_loss)
    assert scaled.stopped == "complete" and scaled.losses == wide.losses
    assert scaled.losses[-1] < scaled.losses[0] - 0.1
    assert bare.losses[-1] > scaled.losses[-1] + 0.1  # the partner: without a scale nothing is learned


def test_a_loss_that_is_not_finite_ends_a_scaled_test_too() -> None:
    def not_a_number(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        return LOSS(model, token_ids, targets) * torch.nan

    assert (
        measure(rising_rates(1e-4, 1e-2, steps=4), loss_function=not_a_number, is_scaled=True).stopped == "not finite"
    )
