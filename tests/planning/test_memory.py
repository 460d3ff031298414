"""Predicted tensors are those that PyTorch allocates: compared with its own record of allocations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from smalllm.config import ModelConfig, OptimConfig, TrainConfig
from smalllm.model.gpt import GPT
from smalllm.optim.optimizers import build_optimizers
from smalllm.planning.memory import Memory, predict_memory
from smalllm.training.step import make_loss_function, train_step

BASE = ModelConfig(n_layers=3, n_heads=4, d_model=128, context_length=128)
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "bias": True},
    "llama": {"norm": "rmsnorm", "mlp": "swiglu"},
    "qwen": {"norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "n_kv_heads": 2, "tie_embeddings": False},
    "dropout": {"dropout": 0.1},
}


def predicted(model: ModelConfig, train: TrainConfig, *, vocab_size: int) -> Memory:
    return predict_memory(model, OptimConfig(), train, vocab_size=vocab_size)


def allocated(config: ModelConfig, train: TrainConfig, *, vocab_size: int, n_micro: int) -> int:
    """The most that an update has at once, beyond weights and optimizer state [bytes]."""
    model = GPT(config, vocab_size=vocab_size).train()
    optimizers = build_optimizers(model, OptimConfig())
    loss_function = make_loss_function("cpu", train.precision, compile_it=False)
    assert isinstance(train.micro_batch_size, int)
    ids = torch.randint(vocab_size, (train.micro_batch_size, config.context_length))
    for step in (0, 1):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            train_step(model, optimizers, [(ids, ids)] * n_micro, loss_function, seed=0, step=step, clip_norm=1.0)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("vocab_size", "n_micro"), [(257, 1), (4096, 2)])
def test_the_tensors_of_an_update(name: str, precision: Any, vocab_size: int, n_micro: int) -> None:
    config = replace(BASE, **SHAPES[name])
    train = TrainConfig(
        micro_batch_size=4, tokens_per_step=4 * 128 * n_micro, precision=precision, compile=False, device="cpu"
    )
    memory = predicted(config, train, vocab_size=vocab_size)
    reckoned = memory.gradients + memory.casts + memory.activations + memory.logits
    assert reckoned == pytest.approx(allocated(config, train, vocab_size=vocab_size, n_micro=n_micro), rel=0.15)


def test_every_part_grows_with_what_it_is_of() -> None:
    train = TrainConfig(micro_batch_size=8, tokens_per_step=1024, precision="bf16", compile=True, device="cpu")
    here = predicted(BASE, train, vocab_size=4096)
    deeper = predicted(replace(BASE, n_layers=6), train, vocab_size=4096)
    assert deeper.weights > here.weights and deeper.activations == 2 * here.activations
    assert deeper.logits == here.logits and predicted(BASE, train, vocab_size=8192).logits == 2 * here.logits
    half = predicted(BASE, replace(train, micro_batch_size=4), vocab_size=4096)
    assert half.logits == here.logits // 2 and half.gradients == half.weights and here.gradients == 0
    assert predicted(BASE, replace(train, compile=False), vocab_size=4096).logits == 6 * here.logits
    assert predicted(BASE, replace(train, precision="fp32"), vocab_size=4096).casts == 0


def test_a_gpu_counts_tensors_only() -> None:
    train = TrainConfig(micro_batch_size=8, tokens_per_step=2048, precision="bf16", compile=True, device="cuda")
    memory = predicted(BASE, train, vocab_size=4096)
    assert memory.process == memory.heap == memory.data == 0
    tensors = [memory.weights, memory.optimizer, memory.gradients, memory.casts, memory.activations, memory.logits]
    tensors.append(memory.evaluation)
    assert memory.total == sum(tensors)


def test_muon_keeps_one_moment_of_the_matrices() -> None:
    train = TrainConfig(micro_batch_size=1, device="cpu", precision="fp32", compile=False)
    adamw = predict_memory(BASE, OptimConfig(), train, vocab_size=256)
    muon = predict_memory(BASE, OptimConfig(kind="muon"), train, vocab_size=256)
    assert adamw.optimizer == 2 * adamw.weights
    assert muon.optimizer == pytest.approx(adamw.weights + 4 * 256 * 128, rel=0.01)  # the embedding keeps two
