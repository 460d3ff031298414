"""The model size that a machine and some minutes can pay for."""

import pytest

from smalllm.config import ModelConfig
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.planning.sizes import SIZES, TOKENS_PER_PARAMETER, Size, size_for
from smalllm.recipes import load_recipe

VOCAB_SIZE = 4096
CONFIG = load_recipe("stories").model


def choose(speed_flops: float, seconds: float = 180.0) -> Size:
    return size_for(CONFIG, vocab_size=VOCAB_SIZE, speed_flops=speed_flops, seconds=seconds)


def seconds_needed(size: Size, *, speed_flops: float) -> float:
    """Until a model of this size has seen its tokens, reckoned here from the counts."""
    shape: ModelConfig = size.of(CONFIG)
    n_tokens = TOKENS_PER_PARAMETER * count_parameters(shape, vocab_size=VOCAB_SIZE).total
    return n_tokens * flops_per_token(shape, vocab_size=VOCAB_SIZE) / speed_flops


def test_sizes_grow() -> None:
    totals = [count_parameters(size.of(CONFIG), vocab_size=VOCAB_SIZE).total for size in SIZES]
    assert totals == sorted(set(totals))


def test_a_faster_machine_or_more_time_never_gets_a_smaller_model() -> None:
    order = [SIZES.index(choose(10.0**exponent)) for exponent in range(7, 16)]
    assert order == sorted(order)
    assert order[0] == 0
    assert order[-1] == len(SIZES) - 1
    assert SIZES.index(choose(1e11, seconds=3600.0)) > SIZES.index(choose(1e11, seconds=30.0))


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_size_is_chosen_from_the_time_on_that_it_needs(size: Size) -> None:
    needed = seconds_needed(size, speed_flops=1e11)
    assert choose(1e11, seconds=1.01 * needed) == size
    assert SIZES.index(choose(1e11, seconds=0.99 * needed)) == SIZES.index(size) - 1


def test_the_recipe_has_one_of_the_sizes() -> None:
    assert Size(CONFIG.n_layers, CONFIG.d_model).of(CONFIG) == CONFIG
