"""Predicted tensors are those that PyTorch allocates: compared with its own record of allocations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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


ADAMW, MUON = OptimConfig(), OptimConfig(kind="muon")


def predicted(model: ModelConfig, train: TrainConfig, *, vocab_size: int, optim: OptimConfig = ADAMW) -> Memory:
    return predict_memory(model, optim, train, vocab_size=vocab_size)


def of_update(memory: Memory) -> int:
    """What `allocated` counts."""
    return memory.gradients + memory.casts + memory.activations + memory.logits + memory.update


def allocated(
    config: ModelConfig, train: TrainConfig, *, vocab_size: int, n_micro: int, optim: OptimConfig = ADAMW
) -> int:
    """The most that an update has at once, beyond weights and optimizer state [bytes]."""
    model = GPT(config, vocab_size=vocab_size).train()
    model.recompute_every = train.activation_checkpointing
    optimizers = build_optimizers(model, optim)
    loss_function = make_loss_function("cpu", train.precision, compile_it=False, n_chunks=train.loss_chunks)
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
    found = allocated(config, train, vocab_size=vocab_size, n_micro=n_micro)
    assert of_update(memory) == pytest.approx(found, rel=0.15)


WAYS: dict[str, dict[str, Any]] = {
    "checkpointing": {"activation_checkpointing": 1},
    "every second block": {"activation_checkpointing": 2},
    "chunks": {"loss_chunks": 8},
    "both": {"activation_checkpointing": 1, "loss_chunks": 4},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("vocab_size", "n_micro", "precision"), [(257, 1, "bf16"), (4096, 1, "fp32"), (4096, 2, "bf16")]
)
def test_the_tensors_with_less_memory(way: str, vocab_size: int, n_micro: int, precision: Any) -> None:
    config = replace(BASE, n_layers=6)
    train = TrainConfig(
        micro_batch_size=8, tokens_per_step=8 * 128 * n_micro, precision=precision, compile=False, device="cpu",
        **WAYS[way],
    )  # fmt: skip
    found = allocated(config, train, vocab_size=vocab_size, n_micro=n_micro)
    assert of_update(predicted(config, train, vocab_size=vocab_size)) == pytest.approx(found, rel=0.15)
    without = replace(train, activation_checkpointing=0, loss_chunks=1)
    if way in ("checkpointing", "both") or vocab_size > 257:  # the partner: what it would be without is told apart
        assert of_update(predicted(config, without, vocab_size=vocab_size)) > 1.15 * found


@pytest.mark.parametrize(
    "shape", [{"d_model": 256, "n_layers": 4}, {"mlp": "swiglu", "norm": "rmsnorm", "d_model": 256}]
)
def test_the_tensors_of_muon_where_there_are_few_tokens(shape: dict[str, Any]) -> None:
    config = replace(BASE, context_length=16, **shape)
    train = TrainConfig(micro_batch_size=1, tokens_per_step=16, precision="fp32", compile=False, device="cpu")
    found = allocated(config, train, vocab_size=64, n_micro=1, optim=MUON)
    memory = predicted(config, train, vocab_size=64, optim=MUON)
    assert of_update(memory) == pytest.approx(found, rel=0.15)
    assert of_update(memory) - memory.update < 0.85 * found


models = st.builds(
    ModelConfig,
    n_layers=st.integers(1, 24),
    n_heads=st.just(4),
    d_model=st.sampled_from([32, 128, 768]),
    context_length=st.sampled_from([16, 256, 1024]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    mlp=st.sampled_from(["gelu", "swiglu"]),
    tie_embeddings=st.booleans(),
    dropout=st.sampled_from([0.0, 0.1]),
)
ways = st.fixed_dictionaries(
    {
        "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
        "compile": st.booleans(),
        "device": st.sampled_from(["cpu", "cuda"]),
        "activation_checkpointing": st.integers(0, 4),
        "loss_chunks": st.integers(1, 8),
    }
)


@given(models, ways, st.integers(1, 64), st.sampled_from([257, 4096, 50257]), st.sampled_from([ADAMW, MUON]))
def test_more_of_anything_never_needs_less(
    model: ModelConfig, way: dict[str, Any], size: int, vocab_size: int, optim: OptimConfig
) -> None:
    def total(shape: ModelConfig = model, *, n: int = size, vocab: int = vocab_size, **changes: Any) -> int:
        train = TrainConfig(micro_batch_size=n, tokens_per_step=n * shape.context_length, **{**way, **changes})
        return predict_memory(shape, optim, train, vocab_size=vocab).total

    here = total()
    assert here > 0
    deeper = model.n_layers * 2  # twice as many blocks of each kind
    assert total(replace(model, n_layers=deeper)) >= here or model.n_layers % max(1, way["activation_checkpointing"])
    assert total(replace(model, d_model=2 * model.d_model)) > here
    # Little more may mean one part more, each of fewer logits; twice as much leaves them as they are.
    assert total(n=2 * size) >= here and total(vocab=2 * vocab_size) >= here
    assert total(loss_chunks=1) >= 0.8 * here  # parts add gradients of the head, which are little beside its state


@given(models, ways, st.integers(1, 64), st.sampled_from([257, 50257]))
def test_less_is_kept_where_blocks_are_computed_again(
    model: ModelConfig, way: dict[str, Any], size: int, vocab_size: int
) -> None:
    def update(**changes: Any) -> int:
        train = TrainConfig(
            micro_batch_size=size, tokens_per_step=size * model.context_length, **{**way, "device": "cuda", **changes}
        )
        return of_update(predict_memory(model, ADAMW, train, vocab_size=vocab_size))

    none, all_of_them = update(activation_checkpointing=0), update(activation_checkpointing=1)
    assert all_of_them <= update(activation_checkpointing=2) <= none


def test_every_part_grows_with_what_it_is_of() -> None:
    train = TrainConfig(micro_batch_size=8, tokens_per_step=1024, precision="bf16", compile=True, device="cpu")
    here = predicted(BASE, train, vocab_size=4096)
    deeper = predicted(replace(BASE, n_layers=6), train, vocab_size=4096)
    assert deeper.weights > here.weights and deeper.activations == 2 * here.activations
    assert deeper.logits == here.logits and predicted(BASE, train, vocab_size=8192).logits == 2 * here.logits
    half = predicted(BASE, replace(train, micro_batch_size=4), vocab_size=4096)
    assert half.logits == here.logits // 2 and half.gradients == half.weights and here.gradients == 0
    assert predicted(BASE, replace(train, compile=False), vocab_size=4096).logits == 3 * here.logits
    assert predicted(BASE, replace(train, precision="fp32"), vocab_size=4096).casts == 0


def test_a_gpu_counts_tensors_only() -> None:
    train = TrainConfig(micro_batch_size=8, tokens_per_step=2048, precision="bf16", compile=True, device="cuda")
    memory = predicted(BASE, train, vocab_size=4096)
    assert memory.process == memory.heap == memory.data == 0
    tensors = [memory.weights, memory.optimizer, memory.gradients, memory.casts, memory.activations, memory.logits]
    tensors += [memory.evaluation, memory.update]
    assert memory.total == sum(tensors)


def test_muon_keeps_one_moment_of_the_matrices() -> None:
    train = TrainConfig(micro_batch_size=1, device="cpu", precision="fp32", compile=False)
    adamw = predict_memory(BASE, OptimConfig(), train, vocab_size=256)
    muon = predict_memory(BASE, OptimConfig(kind="muon"), train, vocab_size=256)
    assert adamw.optimizer == 2 * adamw.weights
    assert muon.optimizer == pytest.approx(adamw.weights + 4 * 256 * 128, rel=0.01)  # the embedding keeps two


LARGE = ModelConfig(n_layers=32, n_heads=32, d_model=4096, context_length=2048)


def on_gpus(n_data: int, *, model: ModelConfig = LARGE, **changes: Any) -> Memory:
    train = TrainConfig(
        micro_batch_size=1, tokens_per_step=2048 * n_data, precision="bf16", compile=False, device="cuda", **changes
    )
    return predict_memory(model, ADAMW, train, vocab_size=32_000, n_data=n_data)


def test_fsdp_divides_what_lasts() -> None:
    whole, divided = on_gpus(8), on_gpus(8, parallel="fsdp")
    assert divided.optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert whole.weights / 8 < divided.weights < whole.weights / 4  # its share, and what is fetched
    assert divided.total < 0.5 * whole.total
    assert on_gpus(1, parallel="fsdp") == on_gpus(1)  # alone there is nobody to divide with
    accumulated = on_gpus(8, parallel="fsdp", activation_checkpointing=1)
    train = TrainConfig(
        micro_batch_size=1, tokens_per_step=2 * 8 * 2048, precision="bf16", compile=False, device="cuda",
        parallel="fsdp", activation_checkpointing=1,
    )  # fmt: skip
    twice = predict_memory(LARGE, ADAMW, train, vocab_size=32_000, n_data=8)
    assert twice.gradients > 2 * accumulated.gradients  # gradients are whole until the last micro-batch


def test_tensor_parallel_divides_the_blocks() -> None:
    whole, divided = on_gpus(1), on_gpus(1, tensor_parallel=4)
    assert whole.weights / 4 < divided.weights < whole.weights / 3
    assert divided.optimizer == 2 * divided.weights


def test_a_gpu_keeps_no_probabilities_for_dropout() -> None:
    plain, dropped = on_gpus(1), on_gpus(1, model=replace(LARGE, dropout=0.1))
    assert plain.activations < dropped.activations < 1.2 * plain.activations
    on_cpu = TrainConfig(micro_batch_size=1, tokens_per_step=2048, precision="fp32", compile=False, device="cpu")
    kept = predicted(replace(LARGE, dropout=0.1), on_cpu, vocab_size=32_000)
    assert kept.activations > 2 * predicted(LARGE, on_cpu, vocab_size=32_000).activations
