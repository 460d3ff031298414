"""How many processes can share what; nothing here starts one."""

from typing import Literal

import pytest

from smalllm.config import ModelConfig, RunConfig, TrainConfig
from smalllm.errors import ConfigError
from smalllm.problems import problems
from smalllm.recipes.resolve import Machine, resolve
from smalllm.training.distributed import Ranks, arranged


def test_what_processes_cannot_share() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.tensor_parallel = 2: must divide the number of processes, which is 1"
    ):
        arranged(Ranks(), device="cpu", n_tensor=2)
    with pytest.raises(ConfigError, match="start a multiple of 4 with torchrun"):
        arranged(Ranks(n=6), device="cpu", n_tensor=4)
    with pytest.raises(ConfigError, match=r'train\.device = "mps": several processes train on "cpu" or "cuda" only'):
        arranged(Ranks(n=2), device="mps", n_tensor=1)


@pytest.mark.parametrize(
    ("model", "named"), [({"n_heads": 3}, ["n_heads"]), ({"n_kv_heads": 1}, ["n_kv_heads"]), ({"d_ff": 97}, ["d_ff"])]
)
def test_a_model_that_cannot_be_cut(model: dict[str, int], named: list[str]) -> None:
    shape = ModelConfig(**{"n_heads": 4, "d_model": 48, **model})
    found = problems(RunConfig(model=shape, train=TrainConfig(max_steps=1, tensor_parallel=2)))
    assert [
        name for name in ("n_heads", "n_kv_heads", "d_ff") if any(f"model.{name}" in text for text in found)
    ] == named
    assert not problems(RunConfig(model=shape, train=TrainConfig(max_steps=1)))


@pytest.mark.parametrize(("mlp", "d_ff"), [("gelu", 4 * 70), ("swiglu", 192)])
def test_a_width_that_is_not_given_cannot_be_cut_either(mlp: Literal["gelu", "swiglu"], d_ff: int) -> None:
    shape = ModelConfig(n_heads=5, d_model=70, mlp=mlp)
    found = {n: problems(RunConfig(model=shape, train=TrainConfig(max_steps=1, tensor_parallel=n))) for n in (5, 35)}
    assert [f"must divide model.d_ff = {d_ff}," in " ".join(found[n]) for n in (5, 35)] == [d_ff % 5 > 0, d_ff % 35 > 0]
    assert problems(RunConfig(model=ModelConfig(n_heads=0), train=TrainConfig(max_steps=1, tensor_parallel=3)))


@pytest.mark.parametrize(
    ("micro_batch_size", "n_ranks", "expected"),
    [("auto", 1, 16), ("auto", 2, 8), ("auto", 4, 4), (4, 4, 4), (8, 2, 8)],
)
def test_the_windows_of_a_step_are_shared(micro_batch_size: int | Literal["auto"], n_ranks: int, expected: int) -> None:
    assert resolved_size(micro_batch_size, n_ranks) == expected


@pytest.mark.parametrize(
    ("micro_batch_size", "n_ranks", "says"),
    [
        ("auto", 3, r"3 processes cannot share its 16 windows .* a multiple of 768, for example 3840"),
        (8, 4, r"must divide the 4 windows that each of 4 processes has .* --train.micro_batch_size 4, or .* = 8192"),
    ],
)
def test_windows_that_cannot_be_shared(micro_batch_size: int | Literal["auto"], n_ranks: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolved_size(micro_batch_size, n_ranks)


def resolved_size(micro_batch_size: int | Literal["auto"], n_ranks: int) -> int | Literal["auto"]:
    train_config = TrainConfig(max_steps=1, tokens_per_step=4096, micro_batch_size=micro_batch_size)
    config = RunConfig(model=ModelConfig(context_length=256), train=train_config)
    machine = Machine(
        device="cpu", precision="fp32", can_compile=False, threads=1, peak_flops=1e11, n_data_ranks=n_ranks
    )
    resolved, _ = resolve(config, machine, vocab_size=257, train_tokens=10**6, flops_per_token=10**6)
    return resolved.train.micro_batch_size
