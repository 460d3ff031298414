"""Thinning, smoothing and medians of curves: what they must keep, and what they must ignore."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.reporting.facts import Curve, bucket_medians, smooth, thin

curves = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=400).map(
    lambda values: Curve(np.arange(1, len(values) + 1, dtype=np.float64), np.array(values))
)


def keeps_the_look(whole: Curve, few: Curve, max_points: int) -> bool:
    pairs = set(zip(whole.steps, whole.values, strict=True))
    return (
        len(few) <= max_points
        and all(pair in pairs for pair in zip(few.steps, few.values, strict=True))
        and (few.steps[0], few.steps[-1]) == (whole.steps[0], whole.steps[-1])
        and (few.values.min(), few.values.max()) == (whole.values.min(), whole.values.max())
        and bool((np.diff(few.steps) > 0).all())
    )


@given(curves, st.integers(4, 100))
def test_thinning_keeps_first_last_lowest_and_highest(whole: Curve, max_points: int) -> None:
    assert keeps_the_look(whole, thin(whole, max_points=max_points), max_points)


def test_taking_every_nth_point_would_be_caught() -> None:
    values = np.zeros(1000)
    values[501] = 9.0
    whole = Curve(np.arange(1000.0), values)
    assert keeps_the_look(whole, thin(whole, max_points=100), 100)
    assert not keeps_the_look(whole, Curve(whole.steps[::10], whole.values[::10]), 100)


@given(curves)
def test_smoothing_stays_within_the_values_and_starts_at_the_first(whole: Curve) -> None:
    values = smooth(whole).values
    slack = 1e-9 * np.abs(whole.values).max()
    assert values[0] == pytest.approx(whole.values[0])
    assert (values >= whole.values.min() - slack).all() and (values <= whole.values.max() + slack).all()


def test_bucket_medians_ignore_a_spike() -> None:
    values = np.ones(90)
    values[44] = 1e6
    assert bucket_medians(Curve(np.arange(90.0), values), n_buckets=9).values.tolist() == [1.0] * 9
