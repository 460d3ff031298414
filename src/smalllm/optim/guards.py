"""Which updates are refused, and the scale that keeps FP16 gradients from vanishing.

An update is refused when its loss or gradient is not finite, or, on request, when either is far above what came before
it. The weights are then left as they are. All is decided from numbers that are the same in every process and that
checkpoints hold, so that a resumed run refuses the same updates.

Source: OLMo-core's trainer (Groeneveld et al. 2024), which leaves out steps beyond mean + 6 sigma of the last 128;
Micikevicius et al. 2018 (mixed precision), section 3.2: loss scaling.
"""

import math
from collections.abc import Sequence

WINDOW = 128
"""Accepted updates that a new one is compared with, at most."""
MIN_WINDOW = 32
"""Accepted updates before any is compared: the first ones fall too fast to tell a spike."""

FIRST_SCALE = 65_536.0
"""What an FP16 loss is multiplied by at first."""
GROWS_AFTER = 2_000
"""Updates without overflow after which the scale doubles."""


def refusal(
    loss: float, grad_norm: float, *, losses: Sequence[float], grad_norms: Sequence[float], sigmas: float
) -> str:
    """Why an update must not be applied, in words; empty where it may.

    Args:
        loss: of the update [nats/token].
        grad_norm: of its whole gradient.
        losses: of the accepted updates before it, `WINDOW` at most.
        grad_norms: likewise.
        sigmas: how many standard deviations above their mean is too far; 0: only what is not finite is refused.
    """
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        return f"the loss is {loss} and the gradient's norm {grad_norm}"
    if not sigmas or len(losses) < MIN_WINDOW:
        return ""
    for name, value, before in (("loss", loss, losses), ("gradient's norm", grad_norm, grad_norms)):
        limit = _limit(before, sigmas)
        if value > limit:
            return f"the {name} is {value:.4g}, beyond {limit:.4g}, {sigmas:g} sigma of the last {len(before)}"
    return ""


def remember(window: Sequence[float], value: float) -> tuple[float, ...]:
    """The window with one more value, the oldest of more than `WINDOW` left out."""
    return (*window, value)[-WINDOW:]


def next_scale(scale: float, n_good: int, *, overflowed: bool) -> tuple[float, int]:
    """The FP16 loss scale after an update, and how many went without overflow since it changed.

    Powers of two, so that scaling changes no bit of a gradient that neither overflows nor vanishes.
    """
    if overflowed:
        return max(1.0, scale / 2), 0
    if n_good + 1 >= GROWS_AFTER:
        return scale * 2, 0
    return scale, n_good + 1


def _limit(values: Sequence[float], sigmas: float) -> float:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean + sigmas * math.sqrt(variance)
