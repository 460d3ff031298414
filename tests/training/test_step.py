"""One update over windows with padding: however they are divided, each real target counts once and padding nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from smalllm.config import ModelConfig
from smalllm.data.padded import IGNORED
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.training.step import LossFunction, make_loss_function, train_step

MakeModel = Callable[..., GPT]
LOSS = make_loss_function("cpu", "fp32", compile_it=False)
LENGTHS = (3, 16, 1, 9)  # real targets of each window


@pytest.fixture
def padded(token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Four windows, padded after so many targets."""
    targets = token_ids.flip(0).clone()
    for row, length in zip(targets, LENGTHS, strict=True):
        row[length:] = IGNORED
    return token_ids, targets


def update(
    model: GPT, micro_batches: Sequence[tuple[Tensor, Tensor]], loss_function: LossFunction = LOSS
) -> tuple[tuple[float, float, int], list[Tensor]]:
    """What `train_step` returns, and by how much it moves each parameter."""
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    found = train_step(model.train(), [optimizer], micro_batches, loss_function, seed=0, step=0, clip_norm=0.0)
    return (found.loss, found.grad_norm, found.n_targets), [
        p.detach() - b for p, b in zip(model.parameters(), before, strict=True)
    ]


def test_micro_batches_of_padded_windows_are_one_big_batch(
    any_config: ModelConfig, make_model: MakeModel, padded: tuple[Tensor, Tensor]
) -> None:
    (loss, norm, n_tokens), moved = update(make_model(any_config), [padded])
    assert n_tokens == sum(LENGTHS)
    for size in (2, 1):
        parts = list(zip(*(t.split(size) for t in padded), strict=True))
        found, also_moved = update(make_model(any_config), parts)
        assert found == pytest.approx((loss, norm, n_tokens), rel=1e-5)
        torch.testing.assert_close(also_moved, moved)


def test_a_mean_of_means_is_told_apart(
    tiny_config: ModelConfig, make_model: MakeModel, padded: tuple[Tensor, Tensor]
) -> None:
    """The partner: micro-batches that count the same, however much of them is padding, give another update."""
    parts = list(zip(*(t.split(1) for t in padded), strict=True))

    def same_weights(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        return LOSS(model, token_ids, targets) * (sum(LENGTHS) / 4) / (targets != IGNORED).sum()

    (loss, _, _), moved = update(make_model(tiny_config), [padded])
    (other_loss, _, _), also_moved = update(make_model(tiny_config), parts, same_weights)
    assert other_loss != pytest.approx(loss, rel=1e-3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(also_moved, moved)


def test_padding_is_not_learned(any_config: ModelConfig, make_model: MakeModel, padded: tuple[Tensor, Tensor]) -> None:
    inputs, targets = padded
    other = torch.where(targets == IGNORED, 7, inputs)
    (loss, norm, _), moved = update(make_model(any_config), [padded])
    (same_loss, same_norm, _), also_moved = update(make_model(any_config), [(other, targets)])
    assert (same_loss, same_norm) == pytest.approx((loss, norm), rel=1e-6)
    torch.testing.assert_close(also_moved, moved)
    whole = (inputs, inputs.flip(0))
    assert update(make_model(any_config), [whole])[0][0] != pytest.approx(loss, rel=1e-3)


def test_whole_windows_have_the_plain_mean_to_the_last_bit(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    parts = list(zip(token_ids.split(1), token_ids.flip(0).split(1), strict=True))
    (loss, _, n_tokens), moved = update(make_model(tiny_config), parts)
    model = make_model(tiny_config)
    losses = [LOSS(model, *part) / 4 for part in parts]
    for each in losses:
        each.backward()
    assert loss == sum(each.item() for each in losses) and n_tokens == 64
    before = [p.detach().clone() for p in model.parameters()]
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(p.detach() - b, m) for p, b, m in zip(model.parameters(), before, moved, strict=True))


def test_the_mask_reaches_the_model(tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    model, targets, eos_id = make_model(tiny_config), token_ids.flip(0), int(token_ids[0, 5])
    masked = make_loss_function("cpu", "fp32", compile_it=False, eos_id=eos_id)
    absent = make_loss_function("cpu", "fp32", compile_it=False, eos_id=1_000)
    plain = LOSS(model, token_ids, targets).item()
    assert masked(model, token_ids, targets).item() != pytest.approx(plain, rel=1e-4)
    assert absent(model, token_ids, targets).item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("n_chunks", [2, 5, 100])
def test_the_loss_in_parts_is_the_loss(n_chunks: int) -> None:
    model = GPT(ModelConfig(n_layers=1, n_heads=2, d_model=16, context_length=16), vocab_size=70)
    init_weights(model, seed=1)
    inputs, targets = some_padded()
    in_parts = make_loss_function("cpu", "fp32", compile_it=False, n_chunks=n_chunks)
    whole, whole_gradients = gradients_of(model, LOSS(model, inputs, targets))
    found, gradients = gradients_of(model, in_parts(model, inputs, targets))
    torch.testing.assert_close(found, whole)
    for gradient, expected in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(gradient, expected)
    other, _ = gradients_of(model, in_parts(model, inputs, targets.roll(1, 0)))
    assert abs(float(other) - float(whole)) > 1e-4  # the partner: other targets are seen


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("every", [1, 2])
def test_activations_computed_again_change_nothing(every: int, dropout: float) -> None:
    config = ModelConfig(n_layers=3, n_heads=2, d_model=16, context_length=16, dropout=dropout)
    model = GPT(config, vocab_size=70).train()
    init_weights(model, seed=1)
    inputs, targets = some_padded()

    def run() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(3)
        return gradients_of(model, LOSS(model, inputs, targets))

    kept, kept_gradients = run()
    model.recompute_every = every
    counter, hook = (
        [0],
        model.blocks[0].mlp.register_forward_pre_hook(lambda *_: counter.__setitem__(0, counter[0] + 1)),
    )
    again, gradients = run()
    hook.remove()
    assert counter == [2]  # the partner: the block really ran twice
    assert torch.equal(kept, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept_gradients, strict=True))


def some_padded() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(70, (4, 17), generator=torch.Generator().manual_seed(2))
    targets = tokens[:, 1:].clone()
    for row, length in zip(targets, LENGTHS, strict=True):
        row[length:] = IGNORED
    return tokens[:, :-1], targets


def gradients_of(model: GPT, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]
