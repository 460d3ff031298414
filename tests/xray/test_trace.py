"""The traced forward pass is the fast one, for every kind of model; what it keeps is what happened on the way."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.model.documents import find_documents
from smalllm.model.gpt import GPT
from smalllm.xray.trace import read_out, trace

MakeModel = Callable[..., GPT]
AXES: dict[str, tuple[Any, ...]] = {
    "position": ("rope", "learned"),
    "norm": ("layernorm", "rmsnorm"),
    "mlp": ("gelu", "swiglu"),
    "qk_norm": (False, True),
    "n_kv_heads": (None, 2, 1),
    "tie_embeddings": (True, False),
    "bias": (False, True),
}


@pytest.mark.parametrize("position", AXES["position"])
@pytest.mark.parametrize("norm", AXES["norm"])
@pytest.mark.parametrize("mlp", AXES["mlp"])
def test_traced_and_fast_logits_are_equal(
    position: str, norm: str, mlp: str, tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    rest = {name: AXES[name] for name in ("qk_norm", "n_kv_heads", "tie_embeddings", "bias")}
    for values in product(*rest.values()):
        kind = {"position": position, "norm": norm, "mlp": mlp, **dict(zip(rest, values, strict=True))}
        model = make_model(replace(tiny_config, **kind))
        with torch.no_grad():
            torch.testing.assert_close(trace(model, token_ids).logits, model(token_ids), msg=str(kind))


def test_the_stream_after_each_block_is_that_of_the_fast_pass(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        block.attention.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        block.mlp.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with torch.no_grad():
        model(token_ids)
    traced = trace(model, token_ids)
    kept = [x for layer in traced.layers for x in (layer.attention_added, layer.mlp_added, layer.after_mlp)]
    torch.testing.assert_close(kept, outputs)
    x = traced.embedded
    for layer in traced.layers:
        assert torch.equal(layer.after_attention, x + layer.attention_added)
        assert torch.equal(layer.after_mlp, layer.after_attention + layer.mlp_added)
        x = layer.after_mlp
    assert torch.equal(read_out(model, traced.stream), traced.logits)


def test_attention_is_causal_and_sums_to_one(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    for layer in trace(make_model(any_config), token_ids).layers:
        assert layer.attention.shape == (4, 4, 16, 16)
        assert torch.equal(layer.attention.triu(1), torch.zeros_like(layer.attention))
        torch.testing.assert_close(layer.attention.sum(dim=-1), torch.ones(4, 4, 16))


def test_documents_are_kept_apart_as_in_the_fast_pass(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model, documents = make_model(any_config), find_documents(token_ids.clone().fill_diagonal_(7), eos_id=7)
    with torch.no_grad():
        expected = model(token_ids, documents=documents)
        torch.testing.assert_close(trace(model, token_ids, documents=documents).logits, expected)
        assert not torch.allclose(trace(model, token_ids).logits, expected)  # partner: without them it is another


def test_a_short_input_and_one_token(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model = make_model(any_config)
    for n in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(trace(model, token_ids[:, :n]).logits, model(token_ids[:, :n]))


def test_dropout_plays_no_part(tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model = make_model(replace(tiny_config, dropout=0.5)).train()
    assert torch.equal(trace(model, token_ids).logits, trace(model, token_ids).logits)
    assert not torch.equal(model(token_ids), model(token_ids))  # partner


# --- partners: the comparison notices a trace that goes wrong anywhere


def mixed_groups(model: GPT) -> None:
    for block in model.blocks:  # the second group's keys go to the first
        weight = block.attention.k.weight.data
        weight.copy_(weight.unflatten(0, (2, -1)).flip(0).flatten(0, 1))


def later_angles(model: GPT) -> None:
    model.cos, model.sin = model.cos.roll(1, 0), model.sin.roll(1, 0).flip(1)


def no_key_norm(model: GPT) -> None:
    for block in model.blocks:
        block.attention.k_norm = torch.nn.Identity()


def another_gate(model: GPT) -> None:
    model.blocks[1].mlp.gate.weight.data.neg_()


def no_last_norm(model: GPT) -> None:
    model.norm = torch.nn.Identity()


@pytest.mark.parametrize("damage", [mixed_groups, later_angles, no_key_norm, another_gate, no_last_norm])
def test_a_trace_of_something_else_is_noticed(
    damage: Callable[[GPT], None], tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    shape = {"norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "n_kv_heads": 2, "tie_embeddings": False}
    model = make_model(replace(tiny_config, **shape))
    damaged = copy.deepcopy(model)
    damage(damaged)
    with torch.no_grad(), pytest.raises(AssertionError):
        torch.testing.assert_close(trace(damaged, token_ids).logits, model(token_ids))


def test_every_parameter_is_in_the_trace(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model = make_model(any_config)
    logits = trace(model, token_ids).logits
    for name, parameter in model.named_parameters():
        if name.endswith("attention.k.bias") and not any_config.qk_norm and any_config.position == "learned":
            continue  # the same for all keys: softmax does not see it
        before = parameter.detach().clone()
        with torch.no_grad():
            noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(3))
            parameter.add_(noise)
        assert not torch.allclose(trace(model, token_ids).logits, logits), name
        with torch.no_grad():
            parameter.copy_(before)
    assert torch.equal(trace(model, token_ids).logits, logits)
