"""Thinning, smoothing and medians of curves: what they must keep, and what they must ignore."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.reporting.curves import Arrays, columns, means, thinned
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
def test_smoothing_stays_within_the_values(whole: Curve) -> None:
    values = smooth(whole).values
    slack = 1e-9 * np.abs(whole.values).max()
    assert (values >= whole.values.min() - slack).all() and (values <= whole.values.max() + slack).all()


def test_smoothing_does_not_lag_behind() -> None:
    slope = np.linspace(5.0, 1.0, 201)
    assert smooth(Curve(np.arange(201.0), slope)).values[100] == pytest.approx(slope[100])


def test_bucket_medians_ignore_a_spike() -> None:
    values = np.ones(90)
    values[44] = 1e6
    assert bucket_medians(Curve(np.arange(90.0), values), n_buckets=9).values.tolist() == [1.0] * 9


def table_of(values: Sequence[float | None]) -> Arrays:
    return columns([{"step": i, "tokens": 8 * i, "loss": value} for i, value in enumerate(values)], ["loss"])


@given(
    st.lists(st.one_of(st.none(), st.integers(-1000, 1000).map(float)), min_size=1, max_size=300), st.integers(1, 20)
)
def test_thinned_rows_are_few_and_keep_every_spike(values: list[float | None], n_stretches: int) -> None:
    few = thinned(table_of(values), n_stretches=n_stretches)
    assert len(few["step"]) <= 2 * n_stretches + 2
    assert {0, len(values) - 1} <= set(few["step"])
    assert all(few["loss"][i] == values[int(step)] for i, step in enumerate(few["step"]) if step is not None)
    known, kept = ({v for v in some if v is not None} for some in (values, few["loss"]))
    assert not known or (min(known), max(known)) == (min(kept), max(kept))


def test_the_trend_is_of_means_and_not_of_spikes() -> None:
    table = table_of([1.0, 1.0, 1.0, 9.0, None, None, 2.0, 4.0])
    assert means(table, n_stretches=4)["loss"] == [1, 5, None, 3]
    assert means(table, n_stretches=4)["tokens"] == [4, 20, 36, 52]


def test_values_are_short_and_counts_exact() -> None:
    rows = [{"step": 7, "tokens": 123_456_789_012, "loss": 1 / 3, "lr": True}, {"step": "8", "loss": 1.0}]
    table = thinned(columns(rows, ["loss", "lr"]), n_stretches=9)
    assert [*table.values()] == [[7], [123_456_789_012], [None], [0.333333], [None]]
