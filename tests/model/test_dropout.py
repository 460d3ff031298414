"""Dropout by a key: the right share, nothing in common between places and keys, and the same when computed again."""

import math

import pytest
import torch
import torch.nn.functional as F

from smalllm.model.dropout import NO_KEYS, again, draw_keys, dropout, kept, numbered

CPU = torch.device("cpu")
SHAPE = torch.Size([4, 6, 64, 128])
N = SHAPE.numel()


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written for the compiler runs as it is."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def masks(n: int, rate: float = 0.5) -> list[torch.Tensor]:
    """What some keys keep, as -1 and 1."""
    torch.manual_seed(0)
    keys = [key for of_block in draw_keys(n, device=CPU) for key in of_block if key is not None]
    return [kept(numbered(SHAPE, device=CPU), rate, key).double() * 2 - 1 for key in keys[:n]]


def within(mean: torch.Tensor | float, expected: float, *, variance: float, n: int = N) -> bool:
    """Whether a mean is as near as one of n independent numbers is in all but one of 10^9 cases."""
    return abs(float(mean) - expected) < 6.1 * math.sqrt(variance / n)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.2, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate(rate: float) -> None:
    for mask in masks(6, rate):
        assert within((mask < 0).double().mean(), rate, variance=rate * (1 - rate))


def test_no_two_places_have_more_in_common_than_chance() -> None:
    for mask in masks(4):
        for axis in range(mask.ndim):
            for distance in (1, 2, 4, 8, 16, 32):
                if distance < mask.shape[axis]:
                    pairs = mask * mask.roll(distance, axis)
                    assert within(pairs.mean(), 0.0, variance=1.0)
        rows = mask.flatten(0, -2)  # nor any row or column more than its share
        assert within(rows.mean(1).abs().max(), 0.0, variance=1.0, n=rows.shape[1])
        assert within(rows.mean(0).abs().max(), 0.0, variance=1.0, n=rows.shape[0])


def test_no_two_keys_have_more_in_common_than_chance() -> None:
    found = masks(12)
    for i, one in enumerate(found):
        for other in found[:i]:
            assert within((one * other).mean(), 0.0, variance=1.0)
            assert within((one * other.roll(1, -1)).mean(), 0.0, variance=1.0)


def test_a_number_that_is_hardly_mixed_is_noticed() -> None:
    """The partner: the numbers alone, without the second round, repeat themselves."""
    numbers = numbered(SHAPE, device=CPU)
    mask = ((numbers ^ (numbers >> 16)) * 0x7FEB352D >= 0).double() * 2 - 1
    lags = [(mask * mask.roll(distance, -1)).mean() for distance in (1, 2, 4, 8, 16, 32)]
    assert not all(within(lag, 0.0, variance=1.0) for lag in lags)


def test_numbers_are_those_of_the_elements_in_memory() -> None:
    shape = torch.Size([2, 3, 5, 7])
    assert torch.equal(numbered(shape, device=CPU), torch.arange(shape.numel(), dtype=torch.int32).view(shape))


@pytest.mark.usefixtures("compiling")
def test_what_stays_is_scaled_and_its_gradient_too() -> None:
    key = draw_keys(1, device=CPU)[0][0]
    x = torch.randn(32, 48, requires_grad=True)
    y = dropout(x, 0.25, key, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    stays = y != 0
    assert 0.6 < stays.double().mean() < 0.9
    torch.testing.assert_close(y[stays], (x / 0.75)[stays])
    torch.testing.assert_close(gradient, torch.where(stays, 1 / 0.75, 0.0))
    assert torch.equal(y, dropout(x, 0.25, key, training=True))
    assert not torch.equal(y, dropout(x, 0.25, draw_keys(1, device=CPU)[0][0], training=True))


@pytest.mark.usefixtures("compiling")
def test_without_a_key_it_is_pytorchs() -> None:
    x = torch.randn(100)
    assert dropout(x, 0.5, NO_KEYS[0], training=False) is x
    torch.manual_seed(1)
    found = dropout(x, 0.5, None, training=True)
    torch.manual_seed(1)
    assert torch.equal(found, F.dropout(x, 0.5))


def test_where_nothing_is_compiled_it_is_pytorchs() -> None:
    x, key = torch.randn(100), draw_keys(1, device=CPU)[0][0]
    torch.manual_seed(1)
    found = dropout(x, 0.5, key, training=True)
    torch.manual_seed(1)
    assert torch.equal(found, F.dropout(x, 0.5))


def test_keys_come_from_the_generator_and_differ() -> None:
    torch.manual_seed(5)
    keys = draw_keys(50, device=CPU)
    torch.manual_seed(5)
    same = draw_keys(50, device=CPU)
    flat = [tuple(key.tolist()) for of_block in keys for key in of_block if key is not None]
    assert flat == [tuple(key.tolist()) for of_block in same for key in of_block if key is not None]
    assert len(set(flat)) == 150
    assert torch.equal(again(torch.tensor(flat[0])), torch.tensor(flat[0]))
