"""A plan says what a run then measures, and what it proposes follows its rule."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import smalllm
from run_helpers import prepared_config, tiny_config
from smalllm import cli
from smalllm.cli.options import parse, split_recipe
from smalllm.cli.train import Options
from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.planning.budget import COMPUTE_OPTIMAL
from smalllm.recipes import override, save_config
from smalllm.recipes.resolve import resolve_shape

LENGTHLESS = {"train.max_steps": None, "train.max_epochs": 2.0}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smalllm.runtime._MATMUL_SIZE", 128)


def test_without_data_the_length_may_be_open(tmp_path: Path) -> None:
    found = smalllm.plan(tiny_config(tmp_path), measure=False)
    assert (found.steps, found.tokens, found.epochs) == (14, 14 * 128, None)
    assert found.train_time_s == 14 * found.step_time_s and not found.is_measured
    assert found.memory.data == 0 and found.memory.total > found.memory.process > 0
    found = smalllm.plan(tiny_config(tmp_path, LENGTHLESS), measure=False)
    assert found.steps is found.tokens is found.train_time_s is None
    assert "how many tokens it is, is not known yet" in found.notes[0]
    assert found.config.train.max_epochs == 2.0
    prepared = smalllm.plan(prepared_config(tmp_path, LENGTHLESS), measure=False)
    assert prepared.epochs == pytest.approx(2.0, rel=0.02) and prepared.memory.data > 0


def test_the_chosen_model_sees_its_tokens(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"train.tokens_per_step": 4096, "model.d_model": 64, "model.n_layers": 2})
    sizes = []
    for minutes in (0.05, 1.0, 30.0, 600.0):
        found = smalllm.plan(config, minutes=minutes, measure=False)
        count = count_parameters(found.config.model, vocab_size=257).total
        assert found.tokens is not None and found.train_time_s is not None
        assert found.train_time_s <= 60 * minutes
        assert found.config.model.n_layers == 1 or found.tokens >= 0.98 * COMPUTE_OPTIMAL * count
        assert found.config.model.d_model // found.config.model.n_heads == 32
        sizes.append(count)
    assert sizes == sorted(sizes) and len(set(sizes)) > 2


def test_memory_bounds_the_model_and_the_micro_batch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"train.micro_batch_size": "auto", "train.tokens_per_step": 4096})
    free = smalllm.plan(config, minutes=1e5, measure=False)
    bound = smalllm.plan(config, minutes=1e5, memory="600MB", measure=False)
    assert bound.memory.total <= 600e6 < free.memory.total
    assert count_parameters(bound.config.model, vocab_size=257).total < free.parameters
    (note,) = [n for n in smalllm.plan(config, memory=1_000_000, measure=False).notes if "memory" in n]
    assert "choose a smaller model" in note


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "shakespeare", "--model.d_model", "48", "--model.n_layers", "1", "--train.compile", "false"]
    assert cli.main([*words, "--guess", "--minutes", "2", "--memory", "2GB"]) == 0
    said = capsys.readouterr()
    assert "FLOPs per token" in said.out and "at the peak" in said.out and "(guessed)" in said.out
    command = next(line for line in said.out.splitlines() if "smalllm train" in line)
    assert "--train.max_minutes 2 --train.memory 2GB" in command and "--model.n_layers" in command
    assert "--train.compile false" in command and command.count("--model.d_model") == 1
    small = ["--train.tokens_per_step", "512", "--train.threads", "1", "--json"]
    assert cli.main([*words, *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_measured"] and found["measured_memory_bytes"] > 1e8
    parts = {k: v for k, v in found["memory"].items() if k != "total_bytes"}
    assert sum(parts.values()) == found["memory"]["total_bytes"]
    assert found["tokens_per_second"] == pytest.approx(512 / found["step_time_s"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--minutes", "0"], "must be more than 0"),
        (["--memory", "lots"], "must be an amount of memory"),
        (["--memory", "0GB"], "must be an amount of memory"),
        (["--train.memory", "12 parsecs"], "train.memory = '12 parsecs'"),
        (["--train.micro_batch_size", "most"], ""),
    ],
)
def test_wrong_words(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert cli.main(["plan", "shakespeare", "--guess", *words]) == 2
    except SystemExit as stop:  # the parser's own way
        assert stop.code == 2
    assert problem in capsys.readouterr().err


def test_a_budget_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        smalllm.plan(tiny_config(tmp_path), minutes=float("nan"))


def test_the_command_that_is_printed_trains_what_was_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalllm.runtime.peak_flops", lambda device: 1e11)
    recipe = tmp_path / "my recipe.toml"
    save_config(tiny_config(tmp_path), recipe)
    given = ["--model.mlp=swiglu", "--optim.kind", "muon", "--train.max-steps", "3", "--eval.sample_prompts", "a b", ""]
    assert cli.main(["plan", str(recipe), *given, "--guess", "--minutes", "1000"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "smalllm train" in line)
    config, rest, _ = split_recipe(shlex.split(line)[2:], command="train")
    printed: RunConfig = parse(Options, rest, command="train", config=config).config
    assert printed.model.mlp == "swiglu" and printed.optim.kind == "muon" and printed.eval.sample_prompts == ("a b", "")
    assert (
        printed.model.n_layers != config.model.n_layers and printed.model.context_length == config.model.context_length
    )
    planned = smalllm.plan(override(tiny_config(tmp_path), {"model.mlp": "swiglu"}), minutes=1000.0, measure=False)
    assert resolve_shape(printed.model) == planned.config.model
    assert printed.train.max_minutes == 1000 and printed.train.max_steps is None  # 3 would have ended the run


# --- against runs

SHAPE: dict[str, Any] = {
    "train.precision": "fp32", "train.compile": False, "train.max_steps": 6, "model.dropout": 0.0,
    "train.tokens_per_step": 8192, "model.context_length": 256, "model.n_layers": 6, "model.n_heads": 4,
    "model.d_model": 256, "train.micro_batch_size": 16, "train.device": "cpu",
}  # fmt: skip


@pytest.mark.slow
def test_runs_need_the_memory_that_was_planned() -> None:
    """Two of the shapes of the script; its table, with the times, is in docs/planning.md."""
    script = Path(__file__).parents[2] / "scripts" / "plan_check.py"
    words = [sys.executable, str(script), "--only", "FP32", "Muon"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n| ") == 2 + 1


def test_a_part_that_is_left_out_would_be_noticed(tmp_path: Path) -> None:
    """The partner: each of the large parts is more than the 15 % that a prediction may be wrong by."""
    memory = smalllm.plan(tiny_config(tmp_path, SHAPE), measure=False).memory
    for part in (memory.process, memory.activations, memory.heap):
        assert part > 0.15 * memory.total


def test_flops_are_those_of_the_counts(tmp_path: Path) -> None:
    config = override(tiny_config(tmp_path), {"model.n_layers": 3})
    found = smalllm.plan(config, measure=False)
    assert found.flops_per_token == flops_per_token(config.model, vocab_size=257)


def test_what_is_computed_again_takes_time(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"model.n_layers": 4})

    def guessed_s(**changes: Any) -> float:
        found = smalllm.plan(override(config, {f"train.{key}": value for key, value in changes.items()}), measure=False)
        assert found.flops_per_token == flops_per_token(config.model, vocab_size=257)  # what is learned costs the same
        return found.step_time_s

    plain, every, second = (guessed_s(activation_checkpointing=n) for n in (0, 1, 2))
    assert plain < second < every < plain * 4 / 3  # the head, whose logits may be made in parts, is computed once
    assert second == pytest.approx((plain + every) / 2)
    assert guessed_s(loss_chunks=4) == plain
