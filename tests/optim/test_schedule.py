"""The rate of each update: warmup, the four schedules, and never 0."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.config import OptimConfig, Schedule
from smalllm.optim.schedule import lr_scale


def scales(
    schedule: Schedule, *, max_steps: int = 100, warmup_steps: int = 10, min_lr_ratio: float = 0.1
) -> list[float]:
    config = OptimConfig(schedule=schedule, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio, decay_fraction=0.2)
    return [lr_scale(step, config, max_steps=max_steps) for step in range(max_steps)]


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [
        ("cosine", 0.1 + 0.9 * 0.5, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 89 / 90))),
        ("linear", 0.1 + 0.9 * 0.5, 0.1 + 0.9 / 90),
        ("hold", 1.0, 0.1 + 0.9 / 20),
        ("constant", 1.0, 1.0),
    ],
)
def test_schedule_at_its_corners(schedule: Schedule, middle: float, last: float) -> None:
    found = scales(schedule)
    assert found[0] == 1 / 10
    assert found[4] == 5 / 10
    assert found[9] == 1.0  # the last of 10 warmup updates
    assert found[10] == 1.0
    assert found[55] == pytest.approx(middle, rel=1e-12)
    assert found[99] == pytest.approx(last, rel=1e-12)


def test_hold_is_flat_and_then_falls_in_a_line() -> None:
    found = scales("hold", min_lr_ratio=0.0)
    assert found[9:81] == [1.0] * 72
    assert found[80:] == pytest.approx([1 - i / 20 for i in range(20)], rel=1e-12)


def test_no_warmup_starts_at_the_peak() -> None:
    absent = OptimConfig(warmup_steps=None)
    assert lr_scale(0, absent, max_steps=10) == lr_scale(0, replace(absent, warmup_steps=0), max_steps=10) == 1.0


@given(
    schedule=st.sampled_from(["cosine", "linear", "hold", "constant"]),
    max_steps=st.integers(1, 300),
    warmup_share=st.floats(0, 1),
    min_lr_ratio=st.floats(0, 1),
    decay_fraction=st.floats(0, 1),
)
def test_rates_are_never_zero_and_fall_after_warmup(
    schedule: Schedule, max_steps: int, warmup_share: float, min_lr_ratio: float, decay_fraction: float
) -> None:
    warmup_steps = round(warmup_share * max_steps)
    config = OptimConfig(
        schedule=schedule, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio, decay_fraction=decay_fraction
    )
    found = [lr_scale(step, config, max_steps=max_steps) for step in range(max_steps)]
    assert all(0 < scale <= 1 for scale in found)
    assert all(scale >= min_lr_ratio - 1e-12 for scale in found[warmup_steps:])
    warmup, rest = found[:warmup_steps], found[warmup_steps:]
    assert warmup == sorted(warmup) and len(set(warmup)) == len(warmup)
    assert rest == sorted(rest, reverse=True)
    assert all(scale == 1.0 for scale in rest[:1])
