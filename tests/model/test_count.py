"""Counted parameters are those of the real model, less the rows that pad the vocabulary; FLOPs by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalllm.config import ModelConfig
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.model.gpt import GPT, padded_vocab_size
from smalllm.recipes import load_recipe, recipe_names

MakeModel = Callable[..., GPT]
BUILT_IN_SIZES = {"gpt2": 50_257, "bytes": 257, "huggingface": 50_257}  # the last: GPT-2 from the Hub


def real_count(config: ModelConfig, *, vocab_size: int) -> int:
    """Parameters of the model that is built, without padding rows; no memory is allocated for it."""
    with torch.device("meta"):
        model = GPT(config, vocab_size=vocab_size)
    n_matrices = 1 if config.tie_embeddings else 2
    n_padding = n_matrices * (padded_vocab_size(vocab_size) - vocab_size) * config.d_model
    return sum(p.numel() for p in model.parameters()) - n_padding


def recipe_count(name: str) -> int:
    config = load_recipe(name)
    vocab_size = config.tokenizer.vocab_size or BUILT_IN_SIZES[config.tokenizer.kind]
    counted = count_parameters(config.model, vocab_size=vocab_size).total
    assert counted == real_count(config.model, vocab_size=vocab_size)
    return counted


@pytest.mark.parametrize("name", recipe_names())
def test_count_of_each_recipe_is_that_of_its_model(name: str) -> None:
    assert recipe_count(name) > 1_000_000


@pytest.mark.parametrize(
    ("name", "parameters", "precision"),
    [
        ("gpt2-124m", 124_439_808, 0),  # OpenAI's GPT-2 small, to the parameter
        ("tinystories", 20.3e6, 0.05e6),
        ("wikipedia", 50.9e6, 0.05e6),
        ("fineweb-edu", 123.6e6, 0.05e6),
        ("shakespeare", 10.8e6, 0.1e6),
    ],
)
def test_recipes_have_the_sizes_they_claim(name: str, parameters: float, precision: float) -> None:
    assert recipe_count(name) == pytest.approx(parameters, abs=precision)


@given(data=st.data())
def test_count_of_any_shape_is_that_of_its_model(data: st.DataObject) -> None:
    n_heads = data.draw(st.integers(1, 6))
    booleans = st.booleans()
    config = ModelConfig(
        n_layers=data.draw(st.integers(1, 4)),
        n_heads=n_heads,
        n_kv_heads=data.draw(st.sampled_from([None, *(g for g in range(1, n_heads + 1) if n_heads % g == 0)])),
        d_model=n_heads * 2 * data.draw(st.integers(1, 20)),
        d_ff=data.draw(st.none() | st.integers(1, 200)),
        context_length=data.draw(st.integers(1, 50)),
        position=data.draw(st.sampled_from(["rope", "learned"])),
        norm=data.draw(st.sampled_from(["layernorm", "rmsnorm"])),
        mlp=data.draw(st.sampled_from(["gelu", "swiglu"])),
        qk_norm=data.draw(booleans),
        bias=data.draw(booleans),
        tie_embeddings=data.draw(booleans),
    )
    vocab_size = data.draw(st.integers(1, 300))
    counted = count_parameters(config, vocab_size=vocab_size).total
    assert counted == real_count(config, vocab_size=vocab_size)
    # a count that forgot one vector would be caught
    assert counted - config.d_model != real_count(config, vocab_size=vocab_size)


def test_tied_matrix_is_one_tensor_and_counted_once(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    tied, untied = tiny_config, replace(tiny_config, tie_embeddings=False)
    model = make_model(tied)
    assert model.lm_head.weight is model.token_embedding.weight
    assert "lm_head.weight" not in dict(model.named_parameters())
    other = make_model(untied)
    assert other.lm_head.weight is not other.token_embedding.weight
    once, twice = (count_parameters(c, vocab_size=61) for c in (tied, untied))
    assert (once.head, twice.head) == (0, 61 * 32)
    assert twice.total - once.total == 61 * 32


def test_flops_by_hand(tiny_config: ModelConfig) -> None:
    # 4 of 32 x 32 and 2 of 32 x 128 matrices and two norms a block; a last norm; 61 rows of the table
    multiplying = 2 * (4 * 32 * 32 + 2 * 32 * 128 + 2 * 32) + 32 + 61 * 32
    assert multiplying == 26_688
    assert flops_per_token(tiny_config, vocab_size=61) == 6 * 26_688 + 12 * 2 * 32 * 16 == 172_416


def test_what_is_only_looked_up_costs_no_flops(tiny_config: ModelConfig) -> None:
    flops = flops_per_token(tiny_config, vocab_size=61)
    learned = replace(tiny_config, position="learned")
    assert count_parameters(learned, vocab_size=61).embedding == (61 + 16) * 32
    assert flops_per_token(learned, vocab_size=61) == flops
    assert flops_per_token(replace(tiny_config, tie_embeddings=False), vocab_size=61) == flops
    assert flops_per_token(tiny_config, vocab_size=62) == flops + 6 * 32  # the head multiplies
