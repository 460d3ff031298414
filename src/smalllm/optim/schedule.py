"""The learning rate of each update, as a share of its peak."""

import math

from smalllm.config import OptimConfig


def lr_scale(step: int, config: OptimConfig, *, max_steps: int) -> float:
    """The rate used by the update `step` -> `step + 1`, as a share of the peak.

    Linear warmup over the first `warmup_steps` updates (the first has 1/warmup_steps of the peak, never 0), then
    the schedule, which would reach `min_lr_ratio` with the update after the last one: no update has rate 0.
    """
    warmup_steps = config.warmup_steps or 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.schedule == "constant":
        return 1.0
    start = warmup_steps
    if config.schedule == "hold":
        start = max(warmup_steps, max_steps - round(config.decay_fraction * max_steps))
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, max_steps - start))
    cosine = config.schedule == "cosine"
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if cosine else 1.0 - progress
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * remaining
