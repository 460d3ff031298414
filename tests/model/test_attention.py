"""Attention, rotation and whole models against the same mathematics written out with nothing but tensor operations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.model.gpt import GPT, Attention, rotary_angles, rotate

MakeModel = Callable[..., GPT]
Weights = Mapping[str, Tensor]
EPS = 1e-5


# --- written out


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weights[f"{name}.weight"]
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rms_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weights[f"{name}.weight"]


def complex_rotation(x: Tensor, *, theta: float = 10_000.0, interleaved: bool = False) -> Tensor:
    """Turn the pairs (i, i + K/2), or (2i, 2i + 1), of [... T K] as complex numbers, in double precision."""
    n_positions, d_head = x.shape[-2:]
    rates = theta ** (-2 * torch.arange(d_head // 2, dtype=torch.float64) / d_head)
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float64), rates)
    turn = torch.polar(torch.ones_like(angles), angles)
    real, imaginary = (x[..., ::2], x[..., 1::2]) if interleaved else x.double().split(d_head // 2, dim=-1)
    turned = torch.complex(real.double(), imaginary.double()) * turn
    if interleaved:
        return torch.view_as_real(turned).flatten(-2).float()
    return torch.cat([turned.real, turned.imag], dim=-1).float()


def attention(
    x: Tensor, weights: Weights, config: ModelConfig, *, causal: bool = True, in_turn: bool = False
) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v, one head at a time; `in_turn` groups the heads wrongly."""
    d_head, n_kv_heads = config.d_model // config.n_heads, config.n_kv_heads or config.n_heads
    q, k, v = (linear(x, weights, name).unflatten(-1, (-1, d_head)) for name in "qkv")  # [B T H K], [B T G K] twice
    if config.qk_norm:
        q, k = rms_norm(q, weights, "q_norm"), rms_norm(k, weights, "k_norm")
    heads = []
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    for head in range(config.n_heads):
        shared = head % n_kv_heads if in_turn else head * n_kv_heads // config.n_heads
        q_head, k_head = q[:, :, head], k[:, :, shared]
        if config.position == "rope":
            q_head, k_head = complex_rotation(q_head), complex_rotation(k_head)
        scores = q_head @ k_head.transpose(1, 2) / math.sqrt(d_head)
        if causal:
            scores = scores.masked_fill(later, -math.inf)
        exponents = (scores - scores.amax(-1, keepdim=True)).exp()
        heads.append(exponents / exponents.sum(-1, keepdim=True) @ v[:, :, shared])
    return linear(torch.cat(heads, dim=-1), weights, "out")


def gelu_mlp(x: Tensor, weights: Weights) -> Tensor:
    up = linear(x, weights, "up")
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))
    return linear(0.5 * up * (1 + tanh), weights, "down")


def swiglu_mlp(x: Tensor, weights: Weights) -> Tensor:
    gate = linear(x, weights, "gate")
    return linear(gate / (1 + (-gate).exp()) * linear(x, weights, "up"), weights, "down")


def below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def written_out(token_ids: Tensor, weights: Weights, config: ModelConfig) -> Tensor:
    """The logits of the whole model."""
    norm = layer_norm if config.norm == "layernorm" else rms_norm
    mlp = gelu_mlp if config.mlp == "gelu" else swiglu_mlp
    x = weights["token_embedding.weight"][token_ids]
    if config.position == "learned":
        x = x + weights["position_embedding.weight"][: token_ids.shape[1]]
    for layer in range(config.n_layers):
        block = below(weights, f"blocks.{layer}.")
        x = x + attention(norm(x, block, "attention_norm"), below(block, "attention."), config)
        x = x + mlp(norm(x, block, "mlp_norm"), below(block, "mlp."))
    x = norm(x, weights, "norm")
    return x @ weights["token_embedding.weight" if config.tie_embeddings else "lm_head.weight"][:61].T


# --- whole models


def test_model_equals_the_written_out_model(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model = make_model(any_config)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    torch.testing.assert_close(model(token_ids).detach(), written_out(token_ids, weights, model.config))


@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.attention_norm.bias",
        "blocks.0.attention.k_norm.weight",
        "blocks.1.attention.v.bias",
        "blocks.0.mlp.up.bias",
        "norm.weight",
    ],
)
def test_a_small_change_of_any_part_is_noticed(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor, name: str
) -> None:
    model = make_model(replace(tiny_config, bias=True, qk_norm=True))
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    weights[name] += 0.01 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="close"):
        torch.testing.assert_close(model(token_ids).detach(), written_out(token_ids, weights, model.config))


def test_shorter_inputs_and_batches_of_one_are_the_same_function(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    torch.testing.assert_close(model(token_ids[2:3, :7]), model(token_ids)[2:3, :7])


# --- attention alone


def attention_case(make_model: MakeModel, config: ModelConfig) -> tuple[Attention, Weights, Tensor]:
    block = make_model(config).blocks[0]
    module = block.get_submodule("attention")
    assert isinstance(module, Attention)
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return module, weights, torch.randn(2, 9, config.d_model, generator=torch.Generator().manual_seed(2))


def run_attention(module: Attention, x: Tensor, config: ModelConfig) -> Tensor:
    cos, sin = rotary_angles(config.d_model // config.n_heads, n_positions=x.shape[1], theta=config.rope_theta)
    y: Tensor = module(x, None if config.position == "learned" else (cos, sin), None)
    return y.detach()


@pytest.mark.parametrize("n_kv_heads", [None, 4, 2, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_attention_equals_the_written_out_softmax(
    tiny_config: ModelConfig, make_model: MakeModel, n_kv_heads: int | None, bias: bool, qk_norm: bool, position: str
) -> None:
    changes = {"n_kv_heads": n_kv_heads, "bias": bias, "qk_norm": qk_norm, "position": position}
    config = replace(tiny_config, **changes)  # type: ignore[arg-type]
    module, weights, x = attention_case(make_model, config)
    torch.testing.assert_close(run_attention(module, x, config), attention(x, weights, config))


def test_wrong_attention_is_noticed(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    config = replace(tiny_config, n_kv_heads=2)
    module, weights, x = attention_case(make_model, config)
    right = run_attention(module, x, config)
    assert not torch.allclose(right, attention(x, weights, config, causal=False), atol=1e-3)
    assert not torch.allclose(right, attention(x, weights, config, in_turn=True), atol=1e-3)
    assert not torch.allclose(right, attention(x, weights, replace(config, position="learned")), atol=1e-3)


# --- rotary positions


def rotated(x: Tensor, *, start: int, theta: float = 10_000.0) -> Tensor:
    """[T K], as if its first row stood at position `start`."""
    cos, sin = rotary_angles(x.shape[1], n_positions=start + x.shape[0], theta=theta)
    return rotate(x[None, None], cos[start:], sin[start:])[0, 0]


def test_scores_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(4)
    q, k = torch.randn(6, 16, generator=generator), torch.randn(6, 16, generator=generator)
    near = rotated(q, start=0) @ rotated(k, start=0).T
    for start in (1, 7, 1000):
        # angles up to 1000 radians are rounded to FP32 only after cosine and sine, so this holds far out
        torch.testing.assert_close(rotated(q, start=start) @ rotated(k, start=start).T, near, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rotated(q, start=1) @ rotated(k, start=0).T, near, atol=1e-2)
    assert not torch.allclose(near, q @ k.T, atol=1e-2)


def test_rotation_equals_the_complex_numbers_of_the_rotate_half_layout() -> None:
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(5))
    for theta in (10_000.0, 500.0):
        torch.testing.assert_close(rotated(x, start=0, theta=theta), complex_rotation(x, theta=theta))
    assert not torch.allclose(rotated(x, start=0), complex_rotation(x, interleaved=True), atol=1e-2)


def test_rotation_keeps_lengths_and_the_first_position() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(rotated(x, start=0).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotated(x, start=0)[0], x[0])
