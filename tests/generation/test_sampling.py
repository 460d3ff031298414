"""What can be drawn is exactly what the options say, and it is drawn as often as its probability says."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor

from smalllm.errors import ConfigError
from smalllm.generation.sampling import (
    PRESETS,
    SamplingConfig,
    check_sampling,
    filter_logits,
    penalize_repetition,
    sample_tokens,
)

ANY_LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)
TIED_LOGITS = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)
LOGITS = ANY_LOGITS | TIED_LOGITS
TEMPERATURES = st.floats(0.05, 5)
CORNERS = [0.0, 1 - 2**-24]  # the smallest and largest that torch.rand gives
NONE_SEEN = torch.zeros(1, 1, dtype=torch.int64)


def kept(logits: Sequence[float], config: SamplingConfig) -> set[int]:
    filtered = filter_logits(torch.tensor([logits]), config)[0]
    return set(filtered.isfinite().nonzero().flatten().tolist())


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((x - max(logits)) / temperature) for x in logits]
    return [p / math.fsum(powers) for p in powers]


def draw(logits: Sequence[float], config: SamplingConfig, uniforms: Tensor, seen: Tensor = NONE_SEEN) -> Tensor:
    n = len(uniforms)
    return sample_tokens(torch.tensor([logits]).expand(n, -1), seen.expand(n, -1), config, uniforms)


# --- filters against brute force


@given(logits=LOGITS, k=st.integers(0, 15))
def test_top_k_keeps_all_that_fewer_than_k_exceed(logits: list[float], k: int) -> None:
    expected = {i for i, x in enumerate(logits) if k == 0 or sum(y > x for y in logits) < k}
    assert kept(logits, SamplingConfig(top_k=k)) == expected


def test_top_k_by_hand_with_a_tie() -> None:
    logits = [1.0, 3.0, 2.0, 2.0, 0.0]
    assert kept(logits, SamplingConfig(top_k=1)) == {1}
    assert kept(logits, SamplingConfig(top_k=2)) == {1, 2, 3}  # nothing tells the second from the third
    assert kept(logits, SamplingConfig(top_k=4)) == {0, 1, 2, 3}
    assert kept(logits, SamplingConfig(top_k=5)) == kept(logits, SamplingConfig(top_k=0)) == {0, 1, 2, 3, 4}


@example(logits=[1.0, -2.161707478868301e-34, 0.0], p=0.75, temperature=1.0)  # tied only after rounding
@given(logits=LOGITS, p=st.floats(0.01, 0.999), temperature=TEMPERATURES)
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: list[float], p: float, temperature: float) -> None:
    probabilities = softmax(logits, temperature)
    likeliest_first = sorted(range(len(logits)), key=lambda i: -logits[i])  # ties in the order of their ids
    sums = [math.fsum(probabilities[i] for i in likeliest_first[:n]) for n in range(1, len(logits) + 1)]
    assume(all(abs(total - p) > 1e-5 for total in sums))  # where FP32 cannot tell
    n_kept = next((n for n, total in enumerate(sums, 1) if total >= p), len(logits))
    assert kept(logits, SamplingConfig(top_p=p, temperature=temperature)) == set(likeliest_first[:n_kept])


def test_top_p_by_hand_with_exact_sums_and_ties() -> None:
    logits = [math.log(x) for x in (0.125, 0.5, 0.25, 0.125)]
    sets = {p: kept(logits, SamplingConfig(top_p=p)) for p in (1e-9, 0.49, 0.51, 0.76, 0.9, 1.0)}
    assert sets == {1e-9: {1}, 0.49: {1}, 0.51: {1, 2}, 0.76: {0, 1, 2}, 0.9: {0, 1, 2, 3}, 1.0: {0, 1, 2, 3}}
    assert kept([0.0] * 4, SamplingConfig(top_p=0.5)) == {0, 1}  # reached exactly: no third


@given(logits=ANY_LOGITS, k=st.integers(1, 12), p=st.floats(0.1, 0.95))
def test_top_p_counts_what_top_k_left(logits: list[float], k: int, p: float) -> None:
    assume(len(set(logits)) == len(logits))
    survivors = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
    probabilities = softmax([logits[i] for i in survivors])
    sums = [math.fsum(probabilities[:n]) for n in range(1, len(survivors) + 1)]
    assume(all(abs(total - p) > 1e-5 for total in sums))
    n_kept = next((n for n, total in enumerate(sums, 1) if total >= p), len(survivors))
    assert kept(logits, SamplingConfig(top_k=k, top_p=p)) == set(survivors[:n_kept])


@given(logits=LOGITS, temperature=TEMPERATURES)
def test_temperature_divides_the_logits(logits: list[float], temperature: float) -> None:
    found = filter_logits(torch.tensor([logits]), SamplingConfig(temperature=temperature)).softmax(-1)[0]
    torch.testing.assert_close(
        found, torch.tensor(softmax(logits, temperature)), rtol=1e-4, atol=1e-6
    )  # FP32 exponents


@given(logits=LOGITS, penalty=st.floats(0.1, 10), data=st.data())
def test_repetition_penalty_once_for_each_token_that_occurred(
    logits: list[float], penalty: float, data: st.DataObject
) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1, max_size=20))
    expected = [x if i not in seen else x / penalty if x > 0 else x * penalty for i, x in enumerate(logits)]
    found = penalize_repetition(torch.tensor([logits]), torch.tensor([seen]), penalty)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_repetition_penalty_changes_what_is_drawn() -> None:
    greedy = SamplingConfig(temperature=0.0)
    seen = torch.tensor([[0, 0, 0]])
    assert draw([2.0, 1.5], greedy, torch.zeros(1), seen).tolist() == [0]
    assert draw([2.0, 1.5], replace(greedy, repetition_penalty=1.3), torch.zeros(1), seen).tolist() == [0]  # not 1.3^3
    assert draw([2.0, 1.5], replace(greedy, repetition_penalty=1.5), torch.zeros(1), seen).tolist() == [1]


# --- draws


def frequencies(logits: Sequence[float], config: SamplingConfig, *, n: int = 40_000) -> Tensor:
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(0))
    return draw(logits, config, uniforms).bincount(minlength=len(logits)) / n


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.5),
        SamplingConfig(temperature=2.0, top_k=3),
        SamplingConfig(top_p=0.8),
        SamplingConfig(repetition_penalty=2.0),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_are_likely(config: SamplingConfig) -> None:
    logits = [0.3, -1.0, 1.2, 0.0, -4.0, 0.9]
    start = penalize_repetition(torch.tensor([logits]), NONE_SEEN, config.repetition_penalty)
    expected = filter_logits(start, config).softmax(-1)[0]
    found = frequencies(logits, config)
    five_sigma = 5 * (expected * (1 - expected) / 40_000).sqrt()
    assert ((found - expected).abs() <= five_sigma).all()
    assert (found[expected == 0] == 0).all()
    other = filter_logits(start, replace(config, temperature=config.temperature * 1.3)).softmax(-1)[0]
    assert ((found - other).abs() > five_sigma).any()  # a temperature 30 % off would be seen


@given(logits=LOGITS)
def test_greedy_takes_the_likeliest_whatever_the_uniform(logits: list[float]) -> None:
    config = SamplingConfig(temperature=0.0)
    likeliest = logits.index(max(logits))
    assert draw(logits, config, torch.tensor([0.0, 0.3, 0.99])).tolist() == [likeliest] * 3


@given(
    logits=LOGITS,
    k=st.integers(0, 12),
    p=st.floats(0.01, 1),
    temperature=st.floats(min_value=0, max_value=1e38, exclude_min=True),
    uniform=st.sampled_from(CORNERS) | st.floats(0, 1, exclude_max=True, width=32),
)
@example(logits=[-8.0, 8.0, -8.0], k=0, p=1.0, temperature=1e-40, uniform=0.0)  # divides to infinity in FP32
@example(logits=[-8.0, 8.0, 8.0], k=0, p=1.0, temperature=5e-324, uniform=CORNERS[1])
def test_no_uniform_draws_a_token_that_was_cut(
    logits: list[float], k: int, p: float, temperature: float, uniform: float
) -> None:
    config = SamplingConfig(temperature=temperature, top_k=k, top_p=p)
    (drawn,) = draw(logits, config, torch.tensor([uniform])).tolist()
    assert drawn in kept(logits, config)
    if temperature < 1e-30:
        assert logits[drawn] == max(logits)


def test_corners_reach_the_first_and_the_last_token_that_is_left() -> None:
    logits = [-1.0, 1.0, 0.5, 0.8, -2.0]
    assert draw(logits, SamplingConfig(top_k=3), torch.tensor(CORNERS)).tolist() == [1, 3]
    assert draw(logits, SamplingConfig(), torch.tensor(CORNERS)).tolist() == [0, 4]


def test_rows_are_drawn_apart() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    seen = torch.tensor([[1], [1]])
    assert sample_tokens(logits, seen, SamplingConfig(), torch.tensor([0.5, 0.5])).tolist() == [0, 2]


# --- options


def test_presets_can_be_used() -> None:
    for config in PRESETS.values():
        check_sampling(config)


def test_all_wrong_options_are_named_at_once() -> None:
    wrong: dict[str, Any] = {
        "temperature": -0.1,
        "top_k": -1,
        "top_p": 0.0,
        "repetition_penalty": math.inf,
        "max_tokens": 0,
        "seed": 2**63,
    }
    with pytest.raises(ConfigError) as caught:
        check_sampling(SamplingConfig(**wrong))
    assert caught.value.problems == (
        "temperature = -0.1: must be 0 or more",
        "top_k = -1: must be 0 (off) or more",
        "top_p = 0.0: must be more than 0, at most 1",
        "repetition_penalty = inf: must be more than 0 (1 is off)",
        "max_tokens = 0: must be at least 1",
        "seed = 9223372036854775808: must be 0 or more, below 2^63",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", math.nan), ("temperature", math.inf), ("top_p", 1.1), ("top_p", math.nan)]
    + [("repetition_penalty", value) for value in (0.0, -1.0, math.nan)],
)
def test_one_wrong_option_is_the_only_one_named(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError) as caught:
        check_sampling(SamplingConfig(**wrong))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{name} = {value}: must be ")
