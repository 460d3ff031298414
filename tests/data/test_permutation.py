"""The order of windows: a shuffle of each epoch, without structure, the same on every machine."""

from collections import Counter
from itertools import permutations
from math import factorial, isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from smalllm.data import permutation
from smalllm.data.batches import window_ids

GOLDEN_SMALL = [9, 2, 0, 7, 6, 3, 5, 4, 8, 1, 5, 7]
GOLDEN_LARGE = [935554479, 224478388, 572274441, 841509921]


def epoch(seed: int, number: int, n: int) -> NDArray[np.int64]:
    return window_ids(seed, number * n, n, n_windows=n)


def is_permutation(ids: NDArray[np.int64], n: int) -> bool:
    return len(ids) == n and np.array_equal(np.sort(ids), np.arange(n))


@given(n=st.integers(1, 5000), seed=st.integers(-(2**70), 2**70), number=st.integers(0, 2**20))
def test_an_epoch_takes_every_window_once(n: int, seed: int, number: int) -> None:
    assert is_permutation(epoch(seed, number, n), n)


@pytest.mark.parametrize("power", [1, 2, 3, 8, 12, 16])
@pytest.mark.parametrize("change", [-1, 0, 1])
def test_an_epoch_is_whole_around_powers_of_two(power: int, change: int) -> None:
    n = 2**power + change
    assert is_permutation(epoch(1, 0, n), n)


def test_the_check_sees_a_window_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Clipping instead of walking: in range, but no longer one-to-one.
    def clipped(values: NDArray[np.uint64], keys: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
        return np.minimum(network(values, keys, n), np.uint64(n - 1))

    network = permutation._network
    monkeypatch.setattr(permutation, "_network", clipped)
    assert not is_permutation(epoch(1, 0, 4999), 4999)


def test_golden_orders() -> None:
    """The order is part of what a resumed run relies on: if these change, old runs resume with other
    batches."""
    assert window_ids(0, 0, 12, n_windows=10).tolist() == GOLDEN_SMALL
    assert window_ids(1337, 10**12, 4, n_windows=10**9 + 7).tolist() == GOLDEN_LARGE
    assert permutation.mix64(np.array([0, 2**64 - 1], np.uint64)).tolist() == [
        0xE220A8397B1DCDAF,
        0xE4D971771B652C20,
    ]


def mix(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def window_at(seed: int, position: int, n: int) -> int:
    """The documented order once more, in Python's own integers, one position at a time."""
    number, x = divmod(position, n)
    key = mix(mix(seed) ^ number)
    a = next(a for a in range(isqrt(n), isqrt(n) + 2) if a * a >= n)
    b = next(b for b in range(max(1, a - 2), a + 1) if a * b >= n)
    while True:
        left, right = divmod(x, b)
        for r in range(0, 16, 2):
            left = (left + mix(right ^ mix((key + r * 0x9E3779B97F4A7C15) % 2**64))) % a
            right = (right + mix(left ^ mix((key + (r + 1) * 0x9E3779B97F4A7C15) % 2**64))) % b
        x = left * b + right
        if x < n:
            return x


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**62), n=st.integers(1, 2**40))
def test_order_equals_the_written_out_form(seed: int, position: int, n: int) -> None:
    assert window_ids(seed, position, 1, n_windows=n).tolist() == [window_at(seed, position, n)]


@given(
    seed=st.integers(0, 2**64 - 1),
    cursor=st.integers(0, 10**12),
    sizes=st.lists(st.integers(0, 40), max_size=6),
    n=st.integers(1, 100),
)
def test_calls_may_be_divided_anywhere(seed: int, cursor: int, sizes: list[int], n: int) -> None:
    whole = window_ids(seed, cursor, sum(sizes), n_windows=n)
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    parts = [window_ids(seed, cursor + a, size, n_windows=n) for a, size in zip(starts, sizes, strict=True)]
    assert np.array_equal(whole, np.concatenate([np.empty(0, np.int64), *parts]))
    assert whole.dtype == np.int64


def test_epochs_and_seeds_differ() -> None:
    n = 1000
    orders = [epoch(seed, number, n) for seed in (0, 1, 2**63) for number in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two independent orders agree in one place on average; 8 or more come up about once in 100,000.
            assert np.count_nonzero(one == other) < 8


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_of_a_few_windows_are_equally_frequent(n: int) -> None:
    assert abs(order_bias(n)) < 4.5


def test_the_frequency_check_sees_too_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "N_ROUNDS", 6)
    assert order_bias(5) > 50


def order_bias(n: int) -> float:
    """Chi-square of the orders of 20,000 epochs against equal frequency, in standard deviations from its
    mean."""
    n_epochs, n_orders = 20_000, factorial(n)
    orders = window_ids(3, 0, n * n_epochs, n_windows=n).reshape(n_epochs, n)
    counts, expected = Counter(map(tuple, orders.tolist())), n_epochs / n_orders
    chi_square = sum((counts[order] - expected) ** 2 / expected for order in permutations(range(n)))
    return (chi_square - (n_orders - 1)) / sqrt(2 * (n_orders - 1))


def structure(ids: NDArray[np.int64]) -> list[float]:
    """Deviations from a random order, in standard deviations: displacement, neighbours, correlation,
    halves."""
    n = len(ids)
    positions = np.arange(n)
    displacement = (np.abs(ids - positions).mean() - n / 3) / (n / sqrt(18) / sqrt(n))
    neighbours = (np.count_nonzero(np.abs(np.diff(ids)) == 1) - 2) / sqrt(2)
    correlation = float(np.corrcoef(ids[:-1], ids[1:])[0, 1]) * sqrt(n)
    first_half = (np.count_nonzero(ids[: n // 2] < n // 2) - n / 4) / sqrt(n / 16)
    cells = np.histogram2d(positions, ids, bins=16)[0]
    grid = ((cells - n / 256) ** 2 / (n / 256)).sum()
    return [displacement, neighbours, correlation, first_half, (grid - 225) / sqrt(450)]


@pytest.mark.parametrize("n", [1000, 4095, 4096, 10_007, 100_000])
def test_no_visible_structure(n: int) -> None:
    deviations = np.array([structure(epoch(seed, seed, n)) for seed in range(5)])
    assert np.abs(deviations).max() < 5, deviations
    # And the mean of five is tighter by the root of five.
    assert np.abs(deviations.mean(axis=0)).max() < 3, deviations


@pytest.mark.parametrize("name", ["in order", "a stride", "two rounds"])
def test_the_structure_check_sees_structure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 10_007
    monkeypatch.setattr(permutation, "N_ROUNDS", 2 if name == "two rounds" else permutation.N_ROUNDS)
    orders = {"in order": np.arange(n), "a stride": np.arange(n) * 101 % n, "two rounds": epoch(0, 0, n)}
    assert max(map(abs, structure(orders[name]))) > 5
