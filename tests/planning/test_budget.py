"""The shapes that are proposed for some minutes, and the rule that chooses one."""

from dataclasses import replace
from typing import Any

import pytest

from smalllm.config import ModelConfig, RunConfig
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.planning.budget import COMPUTE_OPTIMAL, MIN_STEPS, best_shape, shapes, tokens_per_step
from smalllm.problems import problems
from smalllm.recipes import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shape_can_be_built_and_the_recipe_s_is_one(name: str) -> None:
    config = load_recipe(name).model
    found = list(shapes(config))
    assert all(not problems(RunConfig(model=shape, train=load_recipe(name).train)) for shape in found)
    assert config in found
    totals = [count_parameters(shape, vocab_size=4096).total for shape in found]
    assert totals == sorted(set(totals))


def test_grouped_heads_stay_grouped() -> None:
    config = ModelConfig(n_layers=4, n_heads=8, n_kv_heads=2, d_model=512, d_ff=1024)
    for shape in shapes(config):
        assert shape.n_kv_heads and shape.n_heads == 4 * shape.n_kv_heads and shape.d_model == 64 * shape.n_heads
        assert shape.d_ff and shape.d_ff % 64 == 0


def test_heads_wider_than_their_share_of_the_stream_keep_the_ratio() -> None:
    config = ModelConfig(n_layers=8, n_heads=16, d_head=128, d_model=1024)
    assert config in list(shapes(config))


def chosen(seconds: float, **limits: Any) -> ModelConfig:
    config, fits = load_recipe("tinystories").model, limits.get("fits", lambda shape: True)
    return best_shape(config, vocab_size=16_000, speed_flops=5e11, seconds=seconds, fits=fits)


@pytest.mark.parametrize("hours", [1.0, 10.0, 100.0])
def test_the_choice_is_the_largest_that_sees_its_tokens(hours: float) -> None:
    shape = chosen(3600 * hours)
    following = next(s for s in shapes(load_recipe("tinystories").model) if s.n_layers == shape.n_layers + 1)

    def seen(one: ModelConfig) -> float:  # reckoned here from the counts
        n_tokens = 3600 * hours * 5e11 / flops_per_token(one, vocab_size=16_000)
        return n_tokens / count_parameters(one, vocab_size=16_000).total

    assert seen(shape) >= COMPUTE_OPTIMAL > seen(following)


def test_memory_bounds_it() -> None:
    unbound = chosen(1e6)
    bound = chosen(1e6, fits=lambda shape: shape.n_layers < unbound.n_layers)
    assert bound.n_layers == unbound.n_layers - 1
    assert chosen(1.0).n_layers == chosen(1e6, fits=lambda shape: False).n_layers == 1


def test_a_short_run_still_has_updates() -> None:
    assert tokens_per_step(131_072, context_length=512, n_tokens=1e9) == 131_072
    few = tokens_per_step(131_072, context_length=512, n_tokens=10e6)
    assert few == 8_192 and 10e6 / few >= MIN_STEPS
    assert tokens_per_step(131_072, context_length=512, n_tokens=1.0) == 512
    assert 131_072 % few == 0 and replace(ModelConfig(), context_length=512).context_length
