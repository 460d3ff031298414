"""What a Mac's GPU lacks is not asked of it: FP64, foreach kernels, counters on another device. No Mac is needed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from smalllm import runtime
from smalllm.config import ModelConfig, OptimConfig
from smalllm.evaluation.loss import score_logits
from smalllm.generation.sampling import SamplingConfig, sample_tokens
from smalllm.model.gpt import GPT
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors
from smalllm.training.distributed import ALONE
from smalllm.training.parallel import clip_gradients

MakeModel = Callable[..., GPT]
LOGITS = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


class WithoutFp64(Tensor):
    """A tensor that says it is on mps, and all that is computed from it, up to `cpu()`; FP64 is refused."""

    is_mps = True

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(Tensor)
        found = super().__torch_function__(func, types, args, dict(kwargs or {}))
        if any(isinstance(leaf, WithoutFp64) and leaf.dtype == torch.float64 for leaf in tree_leaves(found)):
            raise TypeError("the MPS framework doesn't support float64")
        return found


def on_mps(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(WithoutFp64)


def test_the_stand_in_refuses_fp64() -> None:
    with pytest.raises(TypeError, match="float64"):
        (on_mps(LOGITS) + 1).double()
    found = runtime.in_fp64(on_mps(LOGITS) + 1)
    assert type(found) is Tensor and torch.equal(found, (LOGITS + 1).double())


def test_a_score_is_that_of_the_cpu() -> None:
    targets, lengths = torch.tensor([[0, 3, 6]]), torch.arange(7)
    found = score_logits(on_mps(LOGITS[None]), on_mps(targets), token_byte_lengths=on_mps(lengths))
    assert found == score_logits(LOGITS[None], targets, token_byte_lengths=lengths)


@pytest.mark.parametrize("sampling", [SamplingConfig(temperature=0.7, top_p=0.8), SamplingConfig(temperature=0.0)])
def test_tokens_are_drawn_as_on_the_cpu(sampling: SamplingConfig) -> None:
    uniforms, seen = torch.tensor([0.1, 0.5, 0.9]), torch.zeros(3, 1, dtype=torch.int64)
    found = sample_tokens(on_mps(LOGITS), seen, sampling, on_mps(uniforms))
    assert torch.equal(found, sample_tokens(LOGITS, seen, sampling, uniforms))


def test_gradients_are_clipped_where_there_are_no_foreach_kernels(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clipped() -> tuple[float, Tensor]:
        model = make_model(tiny_config)
        model(token_ids).square().sum().backward()
        norm = clip_gradients(model, 0.5, ALONE)
        return norm, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    norm, gradients = clipped()
    monkeypatch.setattr("torch.nn.utils.clip_grad._device_has_foreach_support", lambda device: False)
    monkeypatch.setattr("torch.nn.utils.clip_grad._has_foreach_support", lambda tensors, device: False)
    slow_norm, slow_gradients = clipped()
    assert norm > 1 and slow_norm == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(slow_gradients, gradients)


def test_the_steps_of_adamw_are_counted_where_the_parameters_are(
    tiny_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(tiny_config)
    optimizers = build_optimizers(model, OptimConfig())
    model(token_ids).sum().backward()
    optimizers[0].step()
    elsewhere = build_optimizers(make_model(tiny_config).to("meta"), OptimConfig())
    load_optimizer_tensors(elsewhere, optimizer_tensors(optimizers))
    assert {value.device.type for value in optimizer_tensors(elsewhere).values()} == {"meta"}
