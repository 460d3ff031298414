"""Which parameter is updated how, and that saved state continues to the bit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from smalllm.config import ModelConfig, OptimConfig
from smalllm.errors import CheckpointError
from smalllm.model.gpt import GPT
from smalllm.optim.muon import Muon
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors, set_lr

MakeModel = Callable[..., GPT]
MATRICES = {
    f"blocks.{layer}.{part}.weight"
    for layer in (0, 1)
    for part in ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.up", "mlp.down")
}
VECTORS = {
    *(f"blocks.{layer}.{part}.weight" for layer in (0, 1) for part in ("attention_norm", "mlp_norm")),
    *(f"blocks.{layer}.attention.{part}.weight" for layer in (0, 1) for part in ("q_norm", "k_norm")),
    *(name.removesuffix("weight") + "bias" for name in MATRICES),
    *(f"blocks.{layer}.{part}.bias" for layer in (0, 1) for part in ("attention_norm", "mlp_norm")),
    "norm.weight",
    "norm.bias",
}
EMBEDDINGS = {"token_embedding.weight", "position_embedding.weight"}
ADAMW = OptimConfig(lr=1e-2, weight_decay=0.1)
MUON = OptimConfig(kind="muon", lr=1e-2, muon_lr=0.02, weight_decay=0.1)


def full_model(make_model: MakeModel, config: ModelConfig) -> GPT:
    """A model with every kind of parameter."""
    return make_model(replace(config, position="learned", bias=True, qk_norm=True, tie_embeddings=False))


def decayed_and_plain(optimizers: list[Optimizer]) -> tuple[set[str], set[str]]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    decayed = [name for group in groups if group["weight_decay"] > 0 for name in group["names"]]
    plain = [name for group in groups if group["weight_decay"] == 0 for name in group["names"]]
    assert len(decayed + plain) == len(set(decayed + plain))  # each parameter in one group
    return set(decayed), set(plain)


def backward(model: GPT, token_ids: Tensor) -> None:
    F.cross_entropy(model(token_ids).flatten(0, 1), token_ids.flip(0).flatten()).backward()


def update(model: GPT, optimizers: list[Optimizer], token_ids: Tensor, *, n_steps: int) -> None:
    for _ in range(n_steps):
        backward(model, token_ids)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


# --- groups


def test_adamw_decays_matrices_and_embeddings(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    decayed, plain = decayed_and_plain(build_optimizers(full_model(make_model, tiny_config), ADAMW))
    assert decayed == MATRICES | EMBEDDINGS | {"lm_head.weight"}
    assert plain == VECTORS


def test_embeddings_are_spared_where_the_configuration_says_so(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    spare = replace(ADAMW, decay_embeddings=False)
    decayed, plain = decayed_and_plain(build_optimizers(full_model(make_model, tiny_config), spare))
    assert decayed == MATRICES | {"lm_head.weight"}
    assert plain == VECTORS | EMBEDDINGS


def test_muon_gets_the_matrices_of_the_blocks(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    optimizers = build_optimizers(full_model(make_model, tiny_config), MUON)
    adamw, muon = optimizers
    assert isinstance(muon, Muon)
    assert {name for group in muon.param_groups for name in group["names"]} == MATRICES
    assert decayed_and_plain([muon]) == (MATRICES, set())
    assert decayed_and_plain([adamw]) == (set(), VECTORS | EMBEDDINGS | {"lm_head.weight"})


def test_a_tied_matrix_is_updated_once(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    names = set.union(*decayed_and_plain(build_optimizers(model, ADAMW)))
    assert names == dict(model.named_parameters()).keys()
    assert "token_embedding.weight" in names and "lm_head.weight" not in names


def test_rates_are_scaled_from_each_groups_peak(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    optimizers = build_optimizers(make_model(tiny_config), MUON)
    for scale in (0.5, 0.25, 1.0):  # always of the peak, not of the last rate
        set_lr(optimizers, scale)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == [1e-2 * scale, 1e-2 * scale, 0.02 * scale]


# --- the update


def written_out_adamw(
    model: GPT, config: OptimConfig, token_ids: Tensor, *, decayed: set[str], n_steps: int
) -> dict[str, Tensor]:
    """The weights after some updates, in double precision but for the gradients; `model` itself is updated too."""
    beta1, beta2, weights = config.beta1, config.beta2, dict(model.named_parameters())
    exact = {name: p.detach().double().clone() for name, p in weights.items()}
    mean, square = ({name: torch.zeros_like(p) for name, p in exact.items()} for _ in range(2))
    for step in range(1, n_steps + 1):
        model.zero_grad()
        backward(model, token_ids)
        for name, p in weights.items():
            assert p.grad is not None
            mean[name] = beta1 * mean[name] + (1 - beta1) * p.grad.double()
            square[name] = beta2 * square[name] + (1 - beta2) * p.grad.double() ** 2
            if name in decayed:
                exact[name] *= 1 - config.lr * config.weight_decay
            root = (square[name] / (1 - beta2**step)).sqrt()
            exact[name] -= config.lr * mean[name] / (1 - beta1**step) / (root + config.eps)
            with torch.no_grad():
                p.copy_(exact[name])
    return {name: value.float() for name, value in exact.items()}


def test_adamw_equals_the_written_out_formula(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    config = OptimConfig(lr=3e-3, weight_decay=0.2, beta1=0.8, beta2=0.9, eps=1e-6, decay_embeddings=False)
    model = full_model(make_model, tiny_config)
    update(model, build_optimizers(model, config), token_ids, n_steps=3)
    found = {name: p.detach() for name, p in model.named_parameters()}

    def expected(config: OptimConfig, decayed: set[str]) -> dict[str, Tensor]:
        other = full_model(make_model, tiny_config)
        return written_out_adamw(other, config, token_ids, decayed=decayed, n_steps=3)

    decayed = MATRICES | {"lm_head.weight"}
    torch.testing.assert_close(found, expected(config, decayed))
    wrong = [
        expected(config, decayed | {"norm.weight"}),
        expected(config, MATRICES),
        expected(replace(config, beta2=0.91), decayed),
        expected(replace(config, eps=1e-4), decayed),
    ]
    for weights in wrong:
        with pytest.raises(AssertionError, match="close"):
            torch.testing.assert_close(found, weights)


# --- state


@pytest.mark.parametrize("config", [ADAMW, MUON], ids=["adamw", "muon"])
def test_saved_state_continues_to_the_bit(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor, config: OptimConfig
) -> None:
    straight = full_model(make_model, tiny_config)
    optimizers = build_optimizers(straight, config)
    update(straight, optimizers, token_ids, n_steps=2)
    weights = {name: value.clone() for name, value in straight.state_dict().items()}
    state = {name: value.clone() for name, value in optimizer_tensors(optimizers).items()}
    update(straight, optimizers, token_ids, n_steps=2)

    def continued(saved: dict[str, Tensor]) -> GPT:
        model = full_model(make_model, tiny_config)
        model.load_state_dict(weights)
        fresh = build_optimizers(model, config)
        load_optimizer_tensors(fresh, saved)
        update(model, fresh, token_ids, n_steps=2)
        return model

    def is_straight(model: GPT) -> bool:
        return all(torch.equal(p, q) for p, q in zip(model.parameters(), straight.parameters(), strict=True))

    assert is_straight(continued(state))
    assert is_straight(continued(state))  # what was loaded is a copy: the first continuation did not change it
    assert not is_straight(continued({}))
    if config.kind == "adamw":
        assert not is_straight(
            continued(
                {k: v for k, v in state.items() if not k.endswith("/exp_avg_sq")}
                | {k: torch.ones_like(v) for k, v in state.items() if k.endswith("/exp_avg_sq")}
            )
        )


def test_state_is_named_by_parameter(tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model = make_model(tiny_config)
    optimizers = build_optimizers(model, MUON)
    update(model, optimizers, token_ids, n_steps=1)
    names = optimizer_tensors(optimizers).keys()
    assert {name.partition("/")[2] for name in names if name.startswith("blocks.0.mlp.up")} == {"momentum_buffer"}
    assert {name.partition("/")[2] for name in names if name.startswith("norm.")} == {"step", "exp_avg", "exp_avg_sq"}
    assert {name.partition("/")[0] for name in names} == dict(model.named_parameters()).keys()


def test_state_of_another_model_is_refused(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    optimizers = build_optimizers(make_model(tiny_config), ADAMW)
    with pytest.raises(CheckpointError, match=r"'blocks\.9\.mlp\.up\.weight/exp_avg' belongs to no parameter"):
        load_optimizer_tensors(optimizers, {"blocks.9.mlp.up.weight/exp_avg": torch.zeros(1)})
