"""Resolving turns everything absent or automatic into numbers, once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.config import ModelConfig, RunConfig, TrainConfig
from smalllm.errors import ConfigError
from smalllm.problems import problems
from smalllm.recipes import override
from smalllm.recipes.resolve import Machine, resolve, resolve_minutes, resolve_shape

LAPTOP = Machine(device="cpu", precision="fp32", can_compile=True, threads=4, peak_flops=1e11)
GPU = Machine(device="cuda", precision="bf16", can_compile=True, threads=8, peak_flops=1e15)
FLOPS = 1_000_000


def resolved_on(machine: Machine, changes: dict[str, Any], *, train_tokens: int = 1_000_000) -> RunConfig:
    config = override(RunConfig(), {"train.max_steps": 100} | changes)
    return resolve(config, machine, vocab_size=500, train_tokens=train_tokens, flops_per_token=FLOPS)[0]


@pytest.mark.parametrize(
    ("mlp", "d_model", "d_ff"),
    [("gelu", 384, 1536), ("swiglu", 384, 1024), ("swiglu", 288, 768), ("swiglu", 192, 512), ("swiglu", 200, 576)],
)
def test_d_ff_is_derived(mlp: Any, d_model: int, d_ff: int) -> None:
    assert resolve_shape(ModelConfig(mlp=mlp, d_model=d_model)).d_ff == d_ff
    assert resolve_shape(ModelConfig(mlp=mlp, d_model=d_model, d_ff=5)).d_ff == 5


def test_kv_heads_are_derived() -> None:
    assert resolve_shape(ModelConfig(n_heads=6)).n_kv_heads == 6
    assert resolve_shape(ModelConfig(n_heads=6, n_kv_heads=2)).n_kv_heads == 2


def test_resolve_takes_the_machine_as_it_is() -> None:
    resolved = resolved_on(GPU, {})
    train = resolved.train
    assert (train.device, train.precision, train.threads) == ("cuda", "bf16", 8)
    assert resolved.tokenizer.vocab_size == 500
    chosen = resolved_on(GPU, {"train.precision": "fp32", "train.threads": 2, "train.micro_batch_size": 4}).train
    assert (chosen.precision, chosen.threads, chosen.micro_batch_size) == ("fp32", 2, 4)


@given(context=st.integers(1, 4096), n_windows=st.integers(1, 600), machine=st.sampled_from([LAPTOP, GPU]))
def test_micro_batch_divides_the_step_and_fits(context: int, n_windows: int, machine: Machine) -> None:
    found = resolved_on(machine, {"model.context_length": context, "train.tokens_per_step": context * n_windows})
    size = found.train.micro_batch_size
    budget = 4_096 if machine is LAPTOP else 65_536
    assert size is not None and n_windows % size == 0
    assert size == 1 or size * context <= budget
    larger = [n for n in range(size + 1, n_windows + 1) if n_windows % n == 0 and n * context <= budget]
    assert larger == []
    assert problems(found) == []


@pytest.mark.parametrize(
    ("limits", "max_steps"),
    [
        ({"train.max_steps": 7}, 7),
        ({"train.max_tokens": 16_384 * 3}, 3),
        ({"train.max_tokens": 16_384 * 3 + 1}, 4),
        ({"train.max_epochs": 2.0}, 122),  # 2,000,000 tokens are 122.07 steps: never more than was asked for
        ({"train.max_epochs": 1e-6}, 1),
        ({"train.max_steps": 7, "train.max_tokens": 16_384 * 3, "train.max_epochs": 2.0}, 3),
    ],
    ids=str,
)
def test_the_smallest_limit_becomes_the_number_of_steps(limits: dict[str, Any], max_steps: int) -> None:
    assert resolved_on(LAPTOP, {"train.max_steps": None} | limits).train.max_steps == max_steps


def test_no_limit_is_an_error_that_names_all_four() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved_on(LAPTOP, {"train.max_steps": None})
    for name in ("max_steps", "max_tokens", "max_epochs", "max_minutes"):
        assert f"--train.{name}" in str(caught.value)


def test_warmup_is_turned_into_steps_and_clamped_with_a_notice() -> None:
    def warmup(changes: dict[str, Any]) -> tuple[int | None, list[str]]:
        config = override(RunConfig(), {"train.max_steps": 100} | changes)
        resolved, notices = resolve(config, LAPTOP, vocab_size=9, train_tokens=9, flops_per_token=9)
        assert resolved.optim.warmup_fraction == 0.0
        return resolved.optim.warmup_steps, notices

    assert warmup({}) == (0, [])
    assert warmup({"optim.warmup_fraction": 0.06}) == (6, [])
    assert warmup({"optim.warmup_steps": 50}) == (50, [])
    clamped, notices = warmup({"optim.warmup_steps": 51})
    assert clamped == 50
    assert notices == ["optim.warmup_steps = 51 is more than half of the 100 steps; using 50"]


def test_compile_auto_needs_a_compiler_and_a_run_that_repays_it() -> None:
    # 30 % of the laptop's 1e11 FLOP/s: a step of 16,384 tokens takes 0.546 s, so 120 s are 219.7 steps
    assert resolved_on(LAPTOP, {"train.max_steps": 219}).train.compile is False
    assert resolved_on(LAPTOP, {"train.max_steps": 220}).train.compile is True
    bare = Machine(device="cpu", precision="fp32", can_compile=False, threads=4, peak_flops=1e11)
    assert resolved_on(bare, {"train.max_steps": 10_000}).train.compile is False
    assert resolved_on(LAPTOP, {"train.max_steps": 10_000, "train.max_minutes": 1.0}).train.compile is False
    assert resolved_on(LAPTOP, {"train.max_steps": None, "train.max_minutes": 3.0}).train.compile is True
    for asked in (True, False):
        assert resolved_on(bare, {"train.compile": asked}).train.compile is asked


def test_minutes_become_steps_with_the_measured_time() -> None:
    config = RunConfig(train=TrainConfig(max_minutes=2.0))
    found, notices = resolve_minutes(config, step_time_s=0.5)
    assert (found.train.max_steps, found.train.max_minutes, notices) == (228, None, [])  # 95 % of 120 s
    assert resolve_minutes(config, step_time_s=0.5, spent_s=20.0)[0].train.max_steps == 190
    assert resolve_minutes(config, step_time_s=0.5, done_steps=50)[0].train.max_steps == 278
    assert resolve_minutes(config, step_time_s=1e6)[0].train.max_steps == 1  # at least one update
    assert resolve_minutes(config, step_time_s=0.5, spent_s=1e6, done_steps=50)[0].train.max_steps == 51
    fewer = RunConfig(train=TrainConfig(max_minutes=2.0, max_steps=10))
    assert resolve_minutes(fewer, step_time_s=0.5)[0].train.max_steps == 10
    assert resolve_minutes(found, step_time_s=9.0) == (found, [])  # what is stored is not timed again


def test_minutes_clamp_the_warmup_too() -> None:
    config = override(RunConfig(), {"train.max_minutes": 2.0, "optim.warmup_steps": 1000})
    resolved, notices = resolve(config, LAPTOP, vocab_size=9, train_tokens=9, flops_per_token=9)
    assert (resolved.optim.warmup_steps, notices) == (1000, [])  # the length is not known yet
    timed, notices = resolve_minutes(resolved, step_time_s=0.5)
    assert timed.optim.warmup_steps == 114
    assert len(notices) == 1 and "using 114" in notices[0]
