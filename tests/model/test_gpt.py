"""The whole model: causality, first loss, padding rows, dropout, precision, learning."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.model.gpt import GPT, padded_vocab_size
from smalllm.model.init import init_weights

MakeModel = Callable[..., GPT]
VOCAB_SIZE = 61


def mean_loss(model: GPT, token_ids: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())


def initialised(config: ModelConfig, *, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> GPT:
    model = GPT(config, vocab_size=vocab_size)
    init_weights(model, seed=seed)
    return model


# --- causality


def influences(model: GPT, token_ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For each position t, how much its logits depend on the embedding at each position [T]."""
    embedded: list[Tensor] = []
    handle = model.token_embedding.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    logits = model(token_ids)
    handle.remove()
    weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(3))
    for t in range(token_ids.shape[1]):
        (gradient,) = torch.autograd.grad((logits[:, t] * weights).sum(), embedded[0], retain_graph=True)
        yield t, gradient.abs().sum(dim=(0, 2))


def test_logits_depend_on_every_earlier_token_and_on_no_later_one(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    for t, influence in influences(make_model(any_config), token_ids):
        assert (influence[: t + 1] > 0).all()
        assert (influence[t + 1 :] == 0).all()


def test_attention_without_its_mask_is_caught(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **options: attend(*args, **{**options, "is_causal": False})
    )
    assert all((influence > 0).all() for _, influence in influences(make_model(tiny_config), token_ids))


# --- initial weights


def test_first_loss_is_close_to_ln_v(any_config: ModelConfig, token_ids: Tensor) -> None:
    model = initialised(any_config)
    loss = mean_loss(model, token_ids, token_ids.flip(0))
    assert loss.item() == pytest.approx(math.log(VOCAB_SIZE), abs=0.05)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    assert mean_loss(model, token_ids, token_ids.flip(0)).item() > math.log(VOCAB_SIZE) + 0.5


def test_zero_init_untied_starts_at_exactly_ln_v_and_with_blocks_that_do_nothing(
    any_config: ModelConfig, token_ids: Tensor
) -> None:
    model = initialised(replace(any_config, init="zero", tie_embeddings=False))
    loss = mean_loss(model, token_ids, token_ids.flip(0))
    torch.testing.assert_close(loss, torch.tensor(math.log(VOCAB_SIZE)))
    x = model.token_embedding(token_ids)
    angles = None if model.position_embedding is not None else (model.cos, model.sin)
    assert torch.equal(model.blocks[0](x, angles, None), x)
    with torch.no_grad():
        model.blocks[0].get_parameter("mlp.down.weight").fill_(0.01)
    assert not torch.equal(model.blocks[0](x, angles, None), x)


def test_initial_weights_have_the_documented_spread(tiny_config: ModelConfig) -> None:
    wide = replace(tiny_config, d_model=128, position="learned", bias=True, qk_norm=True, tie_embeddings=False)
    spread = {name: p.std().item() for name, p in initialised(wide).named_parameters() if p.ndim == 2}
    for name, std in spread.items():
        is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        assert std == pytest.approx(0.02 / math.sqrt(2 * 2) if is_residual else 0.02, rel=0.05), name
    for name, parameter in initialised(wide).named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name.endswith("bias") else 1.0)), name
    fan_in = initialised(replace(wide, init="zero")).get_parameter("blocks.0.mlp.up.weight")
    assert fan_in.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.05)
    tied = initialised(replace(wide, init="zero", tie_embeddings=True))
    assert tied.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_seed_decides_the_weights(tiny_config: ModelConfig) -> None:
    first, again, other = (initialised(tiny_config, seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- the rows that pad the vocabulary


@pytest.mark.parametrize(("vocab_size", "rows"), [(1, 64), (64, 64), (65, 128), (50_257, 50_304)])
def test_vocabulary_is_padded_to_a_multiple_of_64(vocab_size: int, rows: int) -> None:
    assert padded_vocab_size(vocab_size) == rows


def test_padding_rows_take_no_part(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model, targets = make_model(any_config), token_ids.flip(0)
    assert model(token_ids).shape == (*token_ids.shape, VOCAB_SIZE)
    loss = mean_loss(model, token_ids, targets)
    loss.backward()
    for matrix in {model.token_embedding.weight, model.lm_head.weight}:
        assert matrix.shape[0] == 64 and matrix.grad is not None
        assert not matrix.grad[VOCAB_SIZE:].any()
        assert matrix.grad[:VOCAB_SIZE].any()

    def loss_with(rows: int) -> Tensor:
        log_probs = (model.hidden(token_ids) @ model.lm_head.weight[:rows].T).log_softmax(-1)
        return -log_probs.gather(2, targets[:, :, None]).mean()

    torch.testing.assert_close(loss, loss_with(VOCAB_SIZE))
    assert loss_with(64).item() > loss.item() + 1e-3  # padding in the softmax would be seen


# --- shapes


def test_a_tensor_of_the_wrong_shape_or_kind_is_refused(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    """The tests run with shape checks; without them this input would be accepted or fail far from its cause."""
    for wrong in (token_ids[0], token_ids.float()):
        with pytest.raises(jaxtyping.TypeCheckError, match="token_ids"):
            make_model(tiny_config)(wrong)


# --- dropout and precision


def test_dropout_is_off_in_evaluation_and_on_in_training(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    dropped = make_model(replace(tiny_config, dropout=0.5))
    assert torch.equal(dropped(token_ids), make_model(tiny_config)(token_ids))
    dropped.train()
    assert not torch.allclose(dropped(token_ids), dropped(token_ids))


def test_bf16_forward_is_close_to_fp32(any_config: ModelConfig, token_ids: Tensor) -> None:
    model = initialised(any_config)
    exact = model(token_ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(token_ids)
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(rounded.float(), exact)
    # 8 bits of mantissa in every product of two layers; logits have a spread of about 0.1
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.01)


# --- learning


def losses_of_training(model: GPT, token_ids: Tensor, targets: Tensor, *, n_steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    for _ in range(n_steps):
        loss = mean_loss(model.train(), token_ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_overfits_one_batch(any_config: ModelConfig, token_ids: Tensor) -> None:
    assert losses_of_training(initialised(any_config), token_ids, token_ids.flip(0), n_steps=120)[-1] < 0.1


def test_cannot_overfit_what_the_inputs_do_not_tell(tiny_config: ModelConfig, token_ids: Tensor) -> None:
    alike = token_ids[:1].repeat(2, 1)
    targets = torch.stack([token_ids[1], (token_ids[1] + 1) % VOCAB_SIZE])
    assert losses_of_training(initialised(tiny_config), alike, targets, n_steps=60)[-1] > math.log(2) - 1e-6


def test_micro_batches_add_up_to_one_big_batch(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    targets = token_ids.flip(0)

    def gradients(micro_batch_size: int, *, divisor: int) -> list[Tensor]:
        model = make_model(any_config)
        for ids, answers in zip(token_ids.split(micro_batch_size), targets.split(micro_batch_size), strict=True):
            (mean_loss(model, ids, answers) / divisor).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    whole = gradients(4, divisor=1)
    for micro_batch_size in (2, 1):
        torch.testing.assert_close(gradients(micro_batch_size, divisor=4 // micro_batch_size), whole)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gradients(2, divisor=1), whole)
