"""Refusals and the loss scale, by hand-made numbers."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.optim.guards import GROWS_AFTER, MIN_WINDOW, WINDOW, next_scale, refusal, remember

CALM = [1.0, 1.2, 0.8] * 20


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (-math.inf, 1.0)])
def test_what_is_not_finite_is_refused_always(loss: float, norm: float) -> None:
    assert refusal(loss, norm, losses=(), grad_norms=(), sigmas=0.0)
    assert refusal(loss, norm, losses=CALM, grad_norms=CALM, sigmas=6.0)
    assert not refusal(1.0, 1.0, losses=(), grad_norms=(), sigmas=0.0)


@given(st.lists(st.floats(0.1, 10), min_size=MIN_WINDOW, max_size=WINDOW), st.floats(0.5, 8))
def test_the_limit_is_mean_and_so_many_deviations(values: list[float], sigmas: float) -> None:
    limit = statistics.fmean(values) + sigmas * statistics.pstdev(values)
    below, above = limit * (1 - 1e-6) - 1e-9, limit * (1 + 1e-6) + 1e-9
    assert not refusal(below, min(values), losses=values, grad_norms=values, sigmas=sigmas)
    assert "loss" in refusal(above, min(values), losses=values, grad_norms=values, sigmas=sigmas)
    assert "gradient" in refusal(min(values), above, losses=values, grad_norms=values, sigmas=sigmas)
    assert not refusal(above, above, losses=values, grad_norms=values, sigmas=0.0)


def test_a_short_window_does_not_judge() -> None:
    assert not refusal(1e9, 1.0, losses=CALM[: MIN_WINDOW - 1], grad_norms=CALM[: MIN_WINDOW - 1], sigmas=6.0)
    assert refusal(1e9, 1.0, losses=CALM[:MIN_WINDOW], grad_norms=CALM[:MIN_WINDOW], sigmas=6.0)


def test_the_window_forgets_the_oldest() -> None:
    window: tuple[float, ...] = ()
    for value in range(WINDOW + 5):
        window = remember(window, float(value))
    assert len(window) == WINDOW and window[0] == 5.0 and window[-1] == WINDOW + 4


def test_the_scale_halves_at_once_and_doubles_slowly() -> None:
    assert next_scale(1024.0, 7, overflowed=True) == (512.0, 0)
    assert next_scale(1.0, 0, overflowed=True) == (1.0, 0)
    assert next_scale(1024.0, GROWS_AFTER - 2, overflowed=False) == (1024.0, GROWS_AFTER - 1)
    assert next_scale(1024.0, GROWS_AFTER - 1, overflowed=False) == (2048.0, 0)
