"""Whole runs in a directory: stopped, crashed, damaged, resumed; in the end as if nothing had happened."""

import dataclasses
import importlib.util
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from run_helpers import (
    StopAt,
    exact_rows,
    final_files,
    options_of,
    prepared_config,
    tiny_config,
    train_until,
    tree,
)
from smalllm import cli, runtime
from smalllm.api import building, load_run, prepare, runs, train
from smalllm.checkpoint import TrainState, checkpoint_paths, find_checkpoint, load_checkpoint, save_checkpoint
from smalllm.config import RunConfig, as_dict
from smalllm.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RunError, TokenizerError
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override, save_config
from smalllm.rundir import RunDir, read_json, read_jsonl

KILL_TEST = Path(__file__).parents[2] / "scripts" / "kill_test.py"
LAST = 12  # of 14: stopping there saves, and spares the report of a complete run


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nobody disturbed, to compare with."""

    folder: Path
    config: RunConfig
    out: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    config = prepared_config(folder)
    train_until(LAST, config, folder / "run")
    return Whole(folder, config, folder / "run")


@pytest.fixture(scope="module")
def complete(whole: Whole) -> Path:
    """The same run, to its end."""
    out = whole.folder / "complete"
    train(whole.config, out=out)
    return out


class Crash(BaseException):
    """What `kill -9` is from inside: nobody catches it, nothing is saved."""


class CrashAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def row(self, row: Mapping[str, Any]) -> None:
        if row["step"] == self.step:
            raise Crash


def assert_same_run(out: Path, whole: Whole) -> None:
    assert exact_rows(out) == exact_rows(whole.out)
    assert final_files(out) == final_files(whole.out)
    for name in ("best", "latest"):
        assert (RunDir(out).checkpoints / name).read_text() == (RunDir(whole.out).checkpoints / name).read_text()


def test_stopped_and_resumed_is_bit_for_bit_the_same(whole: Whole, tmp_path: Path) -> None:
    for step in (1, 3, 4, 9, LAST):
        train_until(step, whole.config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)
    steps = [(row["split"], row["step"]) for row in exact_rows(tmp_path / "run")]
    assert len(steps) == len(set(steps)) and steps.count(("train", 4)) == 1
    assert [step for split, step in steps if split == "train"] == list(range(1, 13))


def test_another_seed_is_told_apart(whole: Whole, tmp_path: Path) -> None:
    """The partner: the comparison sees a difference where there is one."""
    train_until(LAST, override(whole.config, {"train.seed": 1}), tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_a_crash_costs_time_only(whole: Whole, tmp_path: Path, step: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crash):
        train(whole.config, out=out, progress=CrashAt(step))
    with open(RunDir(out).metrics, "a") as file:
        file.write('{"split": "train", "step": 99, "lo')  # torn by the crash
    train_until(LAST, whole.config, out, resume=True)
    assert_same_run(out, whole)


def test_a_crash_between_saving_and_naming_the_best(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise Crash

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(runs, "mark_best", crash)
        train(whole.config, out=out)
    assert not (RunDir(out).checkpoints / "best").exists()
    train_until(6, whole.config, out, resume=True)
    assert find_checkpoint(out).name == "step-00000004"
    train_until(LAST, whole.config, out, resume=True)
    assert_same_run(out, whole)


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_until(6, whole.config, out)
    (RunDir(out).checkpoints / "step-00000006" / "optimizer.safetensors").write_bytes(b"")
    said = train_until(LAST, whole.config, out, resume=True)
    assert any("step-00000006" in text and "set aside as damaged-step-00000006" in text for text in said)
    assert_same_run(out, whole)


def test_a_complete_run_is_only_read(whole: Whole, complete: Path) -> None:
    before, progress = tree(complete), StopAt(0)
    result = train(whole.config, out=complete, resume=True, progress=progress)
    assert any("complete at step 14" in text for text in progress.said)
    assert result == read_json(RunDir(complete).result) and tree(complete) == before


def test_an_existing_run_is_not_overwritten(whole: Whole) -> None:
    before = tree(whole.out)
    with pytest.raises(RunError, match=r"holds a run already; continue it with --resume, or choose another --out"):
        train(whole.config, out=whole.out)
    assert tree(whole.out) == before


def test_a_second_writer_is_refused(whole: Whole, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from smalllm.rundir import RunDir, locked\n"
        "with locked(RunDir(Path(sys.argv[1]))): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match="another process is writing this run"):
            train(whole.config, out=tmp_path)
        other.communicate()
    train_until(1, whole.config, tmp_path)


def test_a_longer_run(whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = override(whole.config, {"train.max_steps": 8, "optim.schedule": "constant"})
    first = train(short, out=out)
    longer = train(short, out=out, resume=True, changes={"train.max_steps": 12})
    assert (first["steps"], longer["steps"]) == (8, 12)
    assert longer["val"] != first["val"] and read_json(RunDir(out).result) == longer
    train_until(12, override(short, {"train.max_steps": 14}), tmp_path / "at once")
    assert final_files(out) == final_files(tmp_path / "at once")
    assert load_recipe(str(out)).train.max_steps == 12


def test_a_new_length_replaces_the_old_one(whole: Whole, tmp_path: Path) -> None:
    train_until(2, whole.config, tmp_path)
    result = train(whole.config, out=tmp_path, resume=True, changes={"train.max_tokens": 5 * 128})
    assert (result["steps"], result["tokens"]) == (5, 640)


def test_the_learning_rate_may_change(whole: Whole, tmp_path: Path) -> None:
    train_until(6, whole.config, tmp_path)
    train_until(LAST, whole.config, tmp_path, resume=True, changes={"optim.lr": 5e-4})
    rates = {row["step"]: row["lr"] for row in exact_rows(tmp_path) if row["split"] == "train"}
    before = {row["step"]: row["lr"] for row in exact_rows(whole.out) if row["split"] == "train"}
    assert all(rates[step] == before[step] * (1.0 if step <= 6 else 0.5) for step in rates)


MINUTES = {"train.max_minutes": 5.0}


def in_minutes(whole: Whole, **changes: Any) -> RunConfig:
    """What the command line makes of `--train.max_minutes`: the recipe's own length is a limit too."""
    return override(whole.config, {**MINUTES, "train.max_steps": 100_000, "eval.every": 0, **changes})


@pytest.mark.parametrize("asked", [MINUTES, {**MINUTES, "train.max_steps": 100_000}, {}], ids=["one", "two", "recipe"])
def test_the_same_minutes_again_are_the_same_steps(whole: Whole, tmp_path: Path, asked: dict[str, Any]) -> None:
    """As torchrun --max-restarts, Slurm or cron give one command again and again."""
    config = in_minutes(whole)
    said = train_until(3, config, tmp_path, resume=True, changes=asked)
    stored = load_recipe(str(tmp_path))
    assert any(" s an update: " in text for text in said) and stored.train.max_minutes is None
    for step in (5, 8):
        said = train_until(step, config, tmp_path, resume=True, changes=asked)
        assert load_recipe(str(tmp_path)) == stored and not any(" s an update: " in text for text in said)
    at_once = override(whole.config, {"train.max_steps": stored.train.max_steps, "eval.every": 0})
    train_until(8, at_once, tmp_path / "at once")
    assert final_files(tmp_path) == final_files(tmp_path / "at once")


def test_other_minutes_are_those_of_the_sitting(whole: Whole, tmp_path: Path) -> None:
    """The partner. Once complete, the same command only reads; a change of something else forgets no minutes."""
    config, moment = in_minutes(whole), {"train.max_minutes": 1e-9}  # for one update
    train_until(3, config, tmp_path, changes=MINUTES)
    result = train(config, out=tmp_path, resume=True, changes=moment)
    assert result["steps"] == 4
    assert train(config, out=tmp_path, resume=True, changes={"train.log_every": 2}) == result
    before = tree(tmp_path)
    assert train(config, out=tmp_path, resume=True, changes=moment) == result and tree(tmp_path) == before
    train_until(6, config, tmp_path, resume=True, changes={"train.max_steps": 7})
    assert (
        train(config, out=tmp_path, resume=True, changes=moment)["steps"] == 7
    )  # one more: another length was between


def test_minutes_of_a_run_that_lost_its_patience(whole: Whole, tmp_path: Path) -> None:
    config = in_minutes(whole, **{"train.patience": 1, "eval.every": 2, "optim.lr": 0.3})
    result = train(config, out=tmp_path, changes=MINUTES)
    for minutes in (5.0, 7.0):  # the same, and others: there is nothing left to train
        RunDir(tmp_path).result.unlink()  # killed before it was written
        again = train(config, out=tmp_path, resume=True, changes={"train.max_minutes": minutes})
        assert (again["steps"], again["val"]) == (result["steps"], result["val"])
        stored = load_recipe(str(tmp_path)).train
        assert stored.max_minutes is None and stored.max_steps is not None


def from_a_gpu(whole: Whole, out: Path, precision: str) -> None:
    """The same run as if its first steps had been made on a GPU."""
    train_until(6, whole.config, out)
    stored = load_recipe(str(out))
    save_config(override(stored, {"train.device": "cuda", "train.precision": precision}), RunDir(out).config)


@pytest.mark.parametrize("asked", [{}, {"train.precision": "fp32"}], ids=["by itself", "asked for"])
def test_a_tf32_run_goes_on_in_fp32_without_a_gpu(whole: Whole, tmp_path: Path, asked: dict[str, Any]) -> None:
    from_a_gpu(whole, tmp_path, "tf32")
    changes = {"train.device": "cpu", **asked}
    said = train_until(9, whole.config, tmp_path, resume=True, changes=changes)
    assert any('"tf32" becomes "fp32"' in text for text in said) == (not asked)
    said = train_until(LAST, whole.config, tmp_path, resume=True, changes=changes)  # the same command again
    assert not any("tf32" in text for text in said)
    assert_same_run(tmp_path, whole)
    assert load_recipe(str(tmp_path)).train.precision == "fp32"


def test_a_precision_that_is_emulated_is_told_and_may_be_left(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_flags", frozenset)  # a CPU without it
    from_a_gpu(whole, tmp_path, "fp16")
    said = train_until(7, whole.config, tmp_path, resume=True, changes={"train.device": "cpu"})
    assert any("emulated" in text and "--train.precision fp32" in text for text in said)
    assert load_recipe(str(tmp_path)).train.precision == "fp16"
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="a resume cannot change it"):
        patch.setattr(runtime, "cpu_flags", lambda: {"avx512_fp16"})  # where it is native, it stays
        train(whole.config, out=tmp_path, resume=True, changes={"train.precision": "fp32"})
    said = train_until(8, whole.config, tmp_path, resume=True, changes={"train.precision": "fp32"})
    assert load_recipe(str(tmp_path)).train.precision == "fp32" and not any("emulated" in text for text in said)


def test_the_precision_is_chosen_anew_with_the_device(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_flags", frozenset)
    from_a_gpu(whole, tmp_path, "fp16")
    changes = {"train.device": "cpu", "train.precision": "auto"}
    train_until(LAST, whole.config, tmp_path, resume=True, changes=changes)
    assert load_recipe(str(tmp_path)).train.precision == "fp32"
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    ("changes", "rel"),
    [
        ({"train.micro_batch_size": 8}, 1e-5),
        ({"train.loss_chunks": 4}, 1e-5),
        ({"train.activation_checkpointing": 1}, 0),
    ],
    ids=["micro-batch", "logits in parts", "activations again"],
)
def test_the_memory_of_a_step_may_change(tmp_path: Path, changes: dict[str, Any], rel: float) -> None:
    """Another way to compute the same: to the last bit where nothing is added up in another order."""
    config = prepared_config(tmp_path, {"model.dropout": 0.0 if rel else 0.1})
    for out, asked in (("as it was", {}), ("changed", changes)):
        train_until(6, config, tmp_path / out)
        train_until(LAST, config, tmp_path / out, resume=True, changes=asked)
    was, now = ([row["loss"] for row in exact_rows(tmp_path / out)] for out in ("as it was", "changed"))
    assert now == pytest.approx(was, rel=rel, abs=0)
    stored = as_dict(load_recipe(str(tmp_path / "changed")))["train"]
    assert {f"train.{key}": stored[key] for key in stored if f"train.{key}" in changes} == changes
    assert (final_files(tmp_path / "changed") == final_files(tmp_path / "as it was")) == (rel == 0)


def test_patience_ends_a_run(whole: Whole, tmp_path: Path) -> None:
    config = override(whole.config, {"train.patience": 1, "train.max_steps": 400, "eval.every": 2, "optim.lr": 0.3})
    result = train(config, out=tmp_path)
    losses = [row["loss"] for row in exact_rows(tmp_path) if row["split"] == "val"]
    assert result["steps"] < 400 and losses[-1] >= min(losses) and result["best_step"] < result["steps"]
    assert train(config, out=tmp_path, resume=True) == result


def test_the_result_counts_every_step_and_not_only_those_with_a_row(whole: Whole, tmp_path: Path) -> None:
    stops = {"train.patience": 1, "train.max_steps": 400, "eval.every": 2, "optim.lr": 0.3, "train.log_every": 10}
    result = train(override(whole.config, stops), out=tmp_path)
    rows = [row for row in read_jsonl(RunDir(tmp_path).metrics) if row["split"] == "train"]
    state = load_checkpoint(checkpoint_paths(RunDir(tmp_path))[0]).state
    assert result["steps"] > rows[-1]["step"]
    assert (result["steps"], result["tokens"]) == (state.step, state.step * 128)
    assert result["train_time_s"] >= state.elapsed_s >= rows[-1]["elapsed_s"]


def test_a_result_without_any_train_row(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only update overflowed in FP16: there is no speed to tell, and still a result."""
    monkeypatch.setattr(building, "TrainState", partial(TrainState, loss_scale=2.0**60))
    result = train(override(whole.config, {"train.precision": "fp16", "train.max_steps": 1}), out=tmp_path)
    rows = read_jsonl(RunDir(tmp_path).metrics)
    assert [row["split"] for row in rows] == ["event", "val"] and "FP16 overflow" in rows[0]["event"]
    assert (result["steps"], result["tokens"], result["tokens_per_second"], result["mfu"]) == (1, 0, None, None)
    assert read_json(RunDir(tmp_path).result) == result and (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.d_model": 64}, r"model\.d_model = 64: .* was started with 32"),
        ({"train.seed": 5}, r"train\.seed = 5: .* was started with 1337"),
        ({"train.tokens_per_step": 256}, r"train\.tokens_per_step = 256: .* was started with 128"),
        ({"train.precision": "bf16"}, r"train\.precision = 'bf16': .* was started with 'fp32'"),
        ({"train.micro_batch_size": 3}, r"train\.micro_batch_size = 3: must divide the 8 windows"),
        ({"train.max_steps": -1}, r"train\.max_steps = -1: must be at least 1"),
    ],
)
def test_a_resume_cannot_become_another_run(whole: Whole, changes: dict[str, Any], says: str) -> None:
    before = tree(whole.out)
    with pytest.raises(ConfigError, match=says):
        train(whole.config, out=whole.out, resume=True, changes=changes)
    assert tree(whole.out) == before


def test_another_recipe_is_named(whole: Whole) -> None:
    with pytest.raises(ConfigError, match=r'holds a run of recipe "shakespeare", not "stories"'):
        train(load_recipe("stories"), out=whole.out, resume=True)


@pytest.mark.parametrize(
    "asked",
    [
        {"optim.warmup_steps": None, "optim.warmup_fraction": 0.25},
        {"train.precision": "auto"},
        {"train.micro_batch_size": None},
        {"train.max_steps": None, "train.max_epochs": 0.0822},
        {"train.device": "auto", "train.compile": "auto"},
        {"train.micro_batch_size": "auto"},
    ],
    ids=["warmup", "precision", "micro-batch", "epochs", "auto", "automatic micro-batch"],
)
def test_the_same_command_again_goes_on(whole: Whole, tmp_path: Path, asked: dict[str, Any]) -> None:
    """What was resolved once is not taken for a change."""
    config = override(whole.config, asked)
    given = {name: value for name, value in asked.items() if value is not None}
    train_until(2, config, tmp_path, changes=given)
    stored = load_recipe(str(tmp_path))
    train_until(4, config, tmp_path, resume=True, changes=given)
    assert load_recipe(str(tmp_path)) == stored


def test_a_run_repeats_from_its_stored_configuration(whole: Whole, tmp_path: Path) -> None:
    train_until(LAST, load_recipe(str(RunDir(whole.out).config)), tmp_path / "again")
    assert_same_run(tmp_path / "again", whole)


def test_other_data_under_a_resume(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    config, other = prepared_config(tmp_path / "one"), prepared_config(tmp_path / "two", seed=1)
    out = tmp_path / "run"
    train_until(3, config, out)
    then = read_json(Path(str(config.data.path)) / "manifest.json")["splits"]["train"]["files"][0]["sha256"]
    now = read_json(Path(str(other.data.path)) / "manifest.json")["splits"]["train"]["files"][0]["sha256"]
    with pytest.raises(CheckpointError) as caught:
        train(other, out=out, resume=True, changes={"data.path": other.data.path})
    assert then in str(caught.value) and now in str(caught.value) and "--data.path" in str(caught.value)
    # The right data at another place is fine.
    moved = tmp_path / "moved"
    Path(str(config.data.path)).rename(moved)
    train_until(4, config, out, resume=True, changes={"data.path": str(moved)})


def test_another_tokenizer_under_a_resume(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    train_until(3, config, tmp_path / "run")
    spm = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280, "data.path": str(tmp_path / "spm")}
    other = override(config, spm)
    prepare(other)
    with pytest.raises(CheckpointError, match=r"was trained with tokenizer \w{64}, but .* now has \w{64}"):
        train(other, out=tmp_path / "run", resume=True, changes={"data.path": spm["data.path"]})
    # Shards of one tokenizer beside another one.
    (tmp_path / "data" / "tokenizer").rename(tmp_path / "aside")
    (tmp_path / "spm" / "tokenizer").rename(tmp_path / "data" / "tokenizer")
    with pytest.raises(TokenizerError, match=r"made with bytes tokenizer \w{64}, but tokenizer/ holds sentencepiece"):
        train(config, out=tmp_path / "run", resume=True)


def test_damaged_shards_are_found_before_a_step(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    shard = tmp_path / "data" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.bin: the file was altered"):
        train(config, out=tmp_path / "run")
    assert not RunDir(tmp_path / "run").config.exists()  # nothing has begun: no --resume is needed later
    content[100] ^= 1
    shard.write_bytes(content)
    train_until(1, config, tmp_path / "run")


def test_a_rate_too_high_is_no_dead_end(whole: Whole, tmp_path: Path) -> None:
    train_until(6, whole.config, tmp_path)
    with pytest.raises(NonFiniteError, match=r"lower --optim\.lr"):
        train(whole.config, out=tmp_path, resume=True, changes={"optim.lr": 1e30})
    assert load_run(tmp_path / "checkpoints" / "step-00000006").state.step == 6
    train_until(LAST, whole.config, tmp_path, resume=True, changes={"optim.lr": 1e-3})
    assert_same_run(tmp_path, whole)  # its rate is 1e-3 too


def test_a_save_that_fails_is_a_warning(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an older checkpoint is there, training goes on, and the next save works."""
    calls = []

    def fail_once(*args: Any, **kwargs: Any) -> Path:
        calls.append(args[1].step)
        if len(calls) == 2:
            raise CheckpointError("could not be written")
        return save_checkpoint(*args, **kwargs)

    monkeypatch.setattr(runs, "save_checkpoint", fail_once)
    said = train_until(LAST, whole.config, tmp_path)
    assert calls == [4, 8, LAST]
    assert any("WARNING: could not be written; training goes on" in text for text in said)
    assert final_files(tmp_path) == final_files(whole.out)


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_a_process(tmp_path: Path, signal_name: str) -> None:
    config = prepared_config(tmp_path)
    recipe, out = tmp_path / "my.toml", tmp_path / "run"
    save_config(override(config, {"recipe": "my"}), recipe)
    endless = {"train.max_steps": 1_000_000, "eval.every": 0, "optim.schedule": "constant"}
    command = [sys.executable, "-m", "smalllm", "train", str(recipe), "--out", str(out), *options_of(endless)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        began_at = time.monotonic()
        while len(read_jsonl(RunDir(out).metrics)) < 5 and time.monotonic() - began_at < 60:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(getattr(signal, signal_name))
        _, said = process.communicate(timeout=60)
    steps = exact_rows(out)[-1]["step"]
    assert process.returncode == 1 and "Traceback" not in said
    assert f"stopped by {signal_name} at step {steps:,}; everything is saved; continue with: smalllm train" in said
    # The command that it names goes on.
    hint = said.strip().splitlines()[-1].split("smalllm ", 1)[1].split()
    assert cli.main([*hint, "--train.max_steps", str(steps + 2)]) == 0
    assert [row["step"] for row in exact_rows(out) if row["split"] == "train"] == list(range(1, steps + 3))


def test_without_a_checkpoint_a_resume_begins_at_the_beginning(whole: Whole, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(whole.config, out=tmp_path, progress=CrashAt(2))
    assert not list(RunDir(tmp_path).checkpoints.glob("step-*")) and len(read_jsonl(RunDir(tmp_path).metrics)) == 2
    train_until(LAST, whole.config, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"model.dropout": 0.0})
    losses = []
    for size in (1, 8):
        train_until(LAST, override(config, {"train.micro_batch_size": size}), tmp_path / str(size))
        losses.append([row["loss"] for row in exact_rows(tmp_path / str(size))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 15
    train_until(LAST, override(config, {"train.seed": 1}), tmp_path / "seed")
    assert losses[0] != pytest.approx([row["loss"] for row in exact_rows(tmp_path / "seed")], rel=1e-5)


def test_training_without_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data here; prepare it first"):
        train(tiny_config(tmp_path), out=tmp_path / "run")
    assert not RunDir(tmp_path / "run").config.exists()


def kill_test() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("kill_test", KILL_TEST)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kill_9_changes_nothing() -> None:
    """The short form of the script; its long form kills twenty times."""
    words = [sys.executable, str(KILL_TEST), "--kills", "3", "--steps", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical after 3 kills")


def drop_a_row(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))


def repeat_a_row(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3] + lines[2:]))


def change_a_loss(run: Path) -> None:
    rows = read_jsonl(run / "metrics.jsonl")
    rows[5]["loss"] = math.nextafter(rows[5]["loss"], 0)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_a_weight(run: Path) -> None:
    path = run / "checkpoints" / f"step-{LAST:08d}" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize("change", [drop_a_row, repeat_a_row, change_a_loss, change_a_weight])
def test_the_kill_test_sees_differences(whole: Whole, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """The partner: the smallest change is found."""
    shutil.copytree(whole.out, tmp_path / "copy")
    compare = kill_test().differences
    assert compare(whole.out, tmp_path / "copy", steps=LAST) == []
    change(tmp_path / "copy")
    assert len(compare(whole.out, tmp_path / "copy", steps=LAST)) >= 1
