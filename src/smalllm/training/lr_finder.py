"""The learning-rate range test: train a little while the rate rises, and see where learning begins and where it breaks.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; the exponential rise and the
smoothing are those of fast.ai's `lr_find`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm.errors import DeviceMemoryError
from smalllm.optim.guards import FIRST_SCALE, next_scale
from smalllm.optim.optimizers import set_lr
from smalllm.training.memory import shrinking
from smalllm.training.step import LossFunction, Update, train_step

SMOOTHING = 0.9
"""How much of the mean so far each update keeps; the mean lags by about ten updates."""
STOP_RATIO = 4.0
"""The test stops where the smoothed loss exceeds this many times its lowest."""
MARGIN = 10.0
"""The suggestion is at most the rate of the lowest smoothed loss divided by this."""
_START_UPDATES = 5
_NOISES = 3.0
_SMALL_FALL = 0.01  # share of the first losses


@dataclass(slots=True)
class RangeTest:
    """What a range test measured.

    Attributes:
        rates: `optim.lr` of each update.
        losses: of each update's batch, before it was applied [nats/token].
        smoothed: their exponential mean with bias correction [nats/token].
        stopped: why it ended: "complete", "diverged" or "not finite".
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    stopped: str = "complete"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a range test says.

    Attributes:
        lr: the smaller of `steepest_lr` and a tenth of `lowest_lr`; None where the test does not say.
        lowest_lr: where the smoothed loss was lowest; None where it did not fall.
        steepest_lr: where it fell fastest per decade of the rate; None likewise.
        reason: how `lr` was found, or why there is none.
    """

    lr: float | None
    lowest_lr: float | None
    steepest_lr: float | None
    reason: str


def run_range_test(
    model: nn.Module,
    optimizers: list[Optimizer],
    batches: Callable[[int], Sequence[tuple[Tensor, Tensor]]],
    loss_function: LossFunction,
    *,
    rates: Sequence[float],
    peak_lr: float,
    n_windows: int,
    seed: int,
    clip_norm: float,
    is_scaled: bool = False,
    shrink: Callable[[DeviceMemoryError], bool] = lambda error: False,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> RangeTest:
    """Apply one update per rate, until they are used up or the loss runs away. The model is not fit for use then.

    Args:
        model: freshly initialised, or what fine-tuning starts from.
        optimizers: their groups' rates all rise together, each in its proportion to `peak_lr`.
        batches: cursor -> micro-batches, as in training.
        loss_function: from `make_loss_function`.
        rates: of the group whose peak is `peak_lr`, rising.
        peak_lr: `optim.lr`, by which the rates are divided.
        n_windows: of an update.
        seed: decides dropout.
        clip_norm: as in training.
        is_scaled: multiply the loss as FP16 needs it; an update that overflows lowers the scale and is tried again.
        shrink: makes the micro-batches that `batches` gives smaller, where memory did not hold them; False: it cannot.
        on_step: told of each update: how many there were, and its smoothed loss.

    Raises:
        DeviceMemoryError: memory did not hold the smallest micro-batch.
    """

    def updated(step: int, loss_scale: float) -> Update:
        act = partial(train_step, seed=seed, step=step, clip_norm=clip_norm, loss_scale=loss_scale)
        return shrinking(lambda: act(model, optimizers, batches(step * n_windows), loss_function), shrink)

    found, mean = RangeTest(), 0.0
    loss_scale, n_scaled = FIRST_SCALE if is_scaled else 1.0, 0
    model.train()
    for step, rate in enumerate(rates):
        set_lr(optimizers, rate / peak_lr)
        while True:
            update = updated(step, loss_scale)
            if not is_scaled:
                break
            overflowed, before = not math.isfinite(update.grad_norm), loss_scale
            loss_scale, n_scaled = next_scale(loss_scale, n_scaled, overflowed=overflowed)
            if not overflowed or not math.isfinite(update.loss) or loss_scale == before:
                break
        if update.refused:
            found.stopped = "not finite"
            break
        loss = update.loss
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (step + 1))  # without the pull of the 0 that the mean begins with
        found.rates.append(rate)
        found.losses.append(loss)
        found.smoothed.append(smoothed)
        on_step(step + 1, smoothed)
        if smoothed > STOP_RATIO * min(found.smoothed):
            found.stopped = "diverged"
            break
    return found


def rising_rates(min_lr: float, max_lr: float, *, steps: int) -> list[float]:
    """`steps` rates from `min_lr` to `max_lr`, each the same multiple of the one before."""
    return [min_lr * (max_lr / min_lr) ** (step / (steps - 1)) for step in range(steps)]


def suggest(found: RangeTest) -> Suggestion:
    """A rate to start from, or why the test gives none.

    The rate is where the smoothed loss falls fastest per decade, or a tenth of where it is lowest if that is smaller.
    Language models often stay at the loss of a unigram model over decades of too high rates, so the lowest point alone
    says little. The loss must have fallen from the mean of the first updates by more than three times its noise and 1 %
    of itself, and must have turned before the rates were used up.
    """
    smoothed, losses = np.array(found.smoothed), np.array(found.losses)
    if len(losses) < 2 * _START_UPDATES:
        return Suggestion(None, None, None, "the loss ran away within ten updates; lower --min-lr")
    lowest = int(smoothed.argmin())
    noise = _noise(losses[: max(lowest + 1, 2 * _START_UPDATES)])
    start = float(losses[:_START_UPDATES].mean())
    if lowest < _START_UPDATES or start - smoothed[lowest] <= max(_NOISES * noise, _SMALL_FALL * abs(start)):
        reason = "the loss did not fall by more than its noise at any rate; lower --min-lr, or look at model and data"
        return Suggestion(None, None, None, reason)
    rates = np.array(found.rates)
    lowest_lr = float(rates[lowest])
    slopes = np.gradient(smoothed, np.log10(rates))
    steepest_lr = float(rates[int(slopes[: lowest + 1].argmin())])
    if found.stopped == "complete" and smoothed[-1] - smoothed[lowest] <= noise:
        reason = "the loss had not risen again at the highest rate; raise --max-lr"
        return Suggestion(None, lowest_lr, steepest_lr, reason)
    if steepest_lr <= lowest_lr / MARGIN:
        return Suggestion(_rounded(steepest_lr), lowest_lr, steepest_lr, "where the smoothed loss fell fastest")
    reason = f"a tenth of {_rounded(lowest_lr):g}, where the smoothed loss was lowest"
    return Suggestion(_rounded(lowest_lr / MARGIN), lowest_lr, steepest_lr, reason)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _noise(losses: NDArray[np.float64]) -> float:
    """Standard deviation of the losses about their course: from neighbours, so that the course does not count."""
    return float(1.4826 * np.median(np.abs(np.diff(losses))) / np.sqrt(2))  # of normal noise, from its median
