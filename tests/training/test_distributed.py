"""Several processes train one model: the losses, weights and checkpoints of one process, whatever each of them holds.

Each launch of processes takes seconds, so a few launches do many things (`ranks_worker.py`) and tests look at what
they found.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from run_helpers import exact_rows, final_files, prepared_config, train_until
from smalllm.api import train
from smalllm.config import RunConfig
from smalllm.errors import CheckpointError
from smalllm.recipes import load_recipe, override, save_config
from smalllm.rundir import RunDir, read_json

WORKER = Path(__file__).parent / "ranks_worker.py"
SCRIPTS = Path(__file__).parents[2] / "scripts"
PAIR = ["ddp adamw 1", "fsdp adamw 1", "ddp adamw 2", "ddp muon 1", "fsdp muon 1", "ddp muon 2"]
FOUR = ["ddp adamw 2", "fsdp adamw 2", "fsdp muon 2", "fsdp adamw 1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(n: int, *words: str | Path) -> str:
    """Run processes that train together; what they said."""
    done = subprocess.run([*TORCHRUN, f"--nproc-per-node={n}", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def found_by(folder: Path, n: int) -> list[Any]:
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(n)]


# --- updates


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("pair")
    assert "Warning" not in launch(2, WORKER, folder, *PAIR)
    return found_by(folder, 2)


def assert_as_on_one(found: dict[str, Any], case: str) -> None:
    for ours, theirs in found["rows"]:
        # Muon works on BF16 copies of the matrices, where another order of sums shows earlier.
        tolerance = 1e-4 if "muon" in case else 2e-6
        assert theirs[:2] == pytest.approx(ours[:2], rel=tolerance)
        assert theirs[2] == ours[2]
    assert found["apart"] < (5e-3 if "muon" in case else 1e-5)
    assert found["names"] and found["loads"]


@pytest.mark.parametrize("case", PAIR)
def test_the_updates_are_those_of_one_process(pair: list[Any], case: str) -> None:
    assert_as_on_one(pair[0][case], case)
    assert pair[0][case]["rows"] == pair[1][case]["rows"]  # to the last bit: ranks decide alike
    share = pair[0][case]["share"]
    assert share == 1 if case.startswith("ddp") and case.endswith("1") else 0.45 < share < 0.8


def test_another_weight_for_padding_is_told_apart(pair: list[Any]) -> None:
    """The partner: micro-batches weighed alike would give a loss outside the tolerance."""
    (loss, _, n_targets), _ = pair[0]["ddp adamw 1"]["rows"][0]
    assert n_targets == 8 * 16 - 11 - 14
    assert loss * n_targets / (8 * 16) != pytest.approx(loss, rel=1e-2)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_what_is_not_a_number_on_one_rank_stops_the_update_on_all(pair: list[Any], parallel: str) -> None:
    for rank in pair:
        rows = rank[f"nan {parallel}"]
        assert [row[:2] for row in rows] == [[1.0, 1.0], [1.0, 1.0]]
        assert rows[0][2] == rows[1][2]


def test_gradients_are_added_up_once_an_update(pair: list[Any]) -> None:
    for parallel in ("ddp", "fsdp"):
        of_two, of_six = pair[0][f"messages {parallel}"]
        assert of_two == of_six > 0


def test_a_batch_is_looked_at_whole(pair: list[Any]) -> None:
    assert all(rank[f"batch {n_tensor}"] for rank in pair for n_tensor in (1, 2))


def test_what_rank_0_says_reaches_all(pair: list[Any]) -> None:
    assert pair[0]["first"] == pair[1]["first"] == {"text": "é", "n": 0.1, "none": None}


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    launch(4, WORKER, tmp_path, *FOUR)
    found = found_by(tmp_path, 4)
    for case in FOUR:
        assert_as_on_one(found[0][case], case)
        assert all(rank[case]["rows"] == found[0][case]["rows"] for rank in found)
    assert 0.2 < found[0]["fsdp adamw 2"]["share"] < 0.4


# --- whole runs


LAST = 40
LONGER = {"train.max_steps": LAST, "eval.every": 10, "train.keep_checkpoints": 20}
"""Long enough for a signal to come before the end."""


class Runs:
    """Runs of two processes, and what they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, dict[str, Any]()
        self.config = prepared_config(folder, {**LONGER, "model.dropout": 0.0})
        stream = {"data.mode": "stream", "data.separator": "\n", "data.shuffle_buffer": 20}
        stream["data.path"] = str(folder / "streamed")
        self.add("whole")
        self.add("stopped", {}, signal=5)
        self.add("stopped", {}, name="stopped and resumed", resume=True)
        self.add("fsdp", {"train.parallel": "fsdp", "optim.kind": "muon"})
        self.add("tensor", {"train.tensor_parallel": 2})
        self.add("from one", {}, resume=True, asked={"train.parallel": "fsdp"})
        self.add("refused", {"train.tokens_per_step": 112, "train.micro_batch_size": None})
        self.add("tight", {}, most_rows=2)
        self.add("tight", {}, name="again", resume=True, most_rows=2)
        self.add("tight", {}, name="smaller", resume=True, most_rows=2, asked={"train.micro_batch_size": 2})
        self.add("stream whole", stream)
        self.add("stream", stream, signal=6)
        self.add("stream", stream, name="stream resumed", resume=True)
        train_until(6, self.config, folder / "from one")

    def add(
        self,
        out: str,
        changes: Any = None,
        *,
        name: str = "",
        signal: int = 0,
        resume: bool = False,
        asked: Any = None,
        most_rows: int = 0,
    ) -> None:
        save_config(override(self.config, changes or {}), self.folder / f"{out}.toml")
        plan = {"recipe": f"{out}.toml", "out": out, "signal": signal, "resume": resume, "changes": asked or {}}
        self.plan[name or out] = {**plan, "most_rows": most_rows}

    def launch(self) -> list[Any]:
        (self.folder / "plan.json").write_text(json.dumps(self.plan))
        launch(2, WORKER, self.folder)
        return found_by(self.folder, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig, list[Any]]:
    planned = Runs(tmp_path_factory.mktemp("runs"))
    return planned.folder, planned.config, planned.launch()


NUMBERS = ("loss", "loss_ema", "lr", "grad_norm", "bits_per_byte")


def assert_same_curve(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *, rel: float = 1e-4) -> None:
    assert [(row["split"], row["step"], row["tokens"]) for row in ours] == [
        (row["split"], row["step"], row["tokens"]) for row in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert [one[key] for key in NUMBERS if key in one] == pytest.approx(
            [other[key] for key in NUMBERS if key in one], rel=rel
        )


def test_a_run_is_that_of_one_process(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    folder, config, found = runs
    train(config, out=folder / "alone")
    alone = exact_rows(folder / "alone")
    for out in ("whole", "tensor", "from one"):
        assert_same_curve(alone, exact_rows(folder / out))
    assert found[0]["whole"]["steps"] == LAST and found[1]["whole"] == {}
    assert found[0]["whole"]["val"]["loss"] == pytest.approx(read_json(folder / "alone" / "result.json")["val"]["loss"])
    assert read_json(folder / "whole" / "environment.json")["processes"] == 2


def test_muon_on_shares_is_muon(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    folder, config, _ = runs
    train(override(config, {"optim.kind": "muon"}), out=folder / "muon alone")
    assert_same_curve(exact_rows(folder / "muon alone"), exact_rows(folder / "fsdp"), rel=1e-2)  # of BF16


def test_another_run_is_told_apart(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    """The partner: the comparison sees a different order of windows."""
    folder, config, _ = runs
    train(override(config, {"train.seed": 8}), out=folder / "other")
    with pytest.raises(AssertionError):
        assert_same_curve(exact_rows(folder / "other"), exact_rows(folder / "whole"))


@pytest.mark.parametrize(("stopped", "whole"), [("stopped", "whole"), ("stream", "stream whole")])
def test_a_signal_to_one_rank_stops_all_at_one_step(
    runs: tuple[Path, RunConfig, list[Any]], stopped: str, whole: str
) -> None:
    folder, _, found = runs
    assert found[0][stopped] == found[1][stopped]  # the step too
    assert found[0][stopped]["stopped"] == "SIGTERM"
    name = "stopped and resumed" if stopped == "stopped" else "stream resumed"
    assert found[0][name]["steps"] == LAST
    assert exact_rows(folder / stopped) == exact_rows(folder / whole)  # bit for bit
    assert final_files(folder / stopped) == final_files(folder / whole)


def test_a_stream_is_shared_without_repeats(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    folder, config, _ = runs
    checkpoints = RunDir(folder / "stream").checkpoints
    kept = read_json(checkpoints / f"step-{LAST:08d}" / "state.json")["facts"]["stream"]
    assert kept["n_ranks"] == 2 and kept["positions"][0] != kept["positions"][1]
    blocks = [(p["epoch"] + p["file"] + p["block"]) % 2 for p in kept["positions"]]
    assert blocks == [0, 1]
    changed = {"train.max_steps": LAST + 2}
    with pytest.raises(CheckpointError, match="has streamed its text to 2 processes and cannot go on with 1"):
        train(config, out=folder / "stream", resume=True, changes=changed)


def test_a_checkpoint_of_shares_goes_on_alone(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    folder, config, _ = runs
    train(config, out=folder / "from one", resume=True, changes={"train.max_steps": LAST + 2, "train.parallel": "ddp"})
    assert read_json(folder / "from one" / "environment.json")["processes"] == 1
    assert exact_rows(folder / "from one")[-1]["step"] == LAST + 2


def test_memory_that_is_not_enough_can_be_left(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    folder, _, found = runs
    for name in ("tight", "again"):
        said = [rank[name]["error"] for rank in found]
        assert sorted(said)[1] == "RankError: " and sorted(said)[0].startswith(
            "DeviceMemoryError: memory did not hold 4"
        )
        assert "can't allocate memory" in sorted(said)[0] and "--resume --train.micro_batch_size 2," in sorted(said)[0]
    assert found[0]["smaller"]["steps"] == LAST
    assert_same_curve(exact_rows(folder / "tight"), exact_rows(folder / "whole"))


def test_an_error_is_said_by_one(runs: tuple[Path, RunConfig, list[Any]]) -> None:
    _, _, found = runs
    first, second = (rank["refused"]["error"] for rank in found)
    assert first == (
        "ConfigError: train.tokens_per_step = 112: 2 processes cannot share its 7 windows of model.context_length = 16 "
        "in equal parts; use a multiple of 32, for example 128"
    )
    assert second == "RankError: "


def test_the_command_says_it_once(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    save_config(config, tmp_path / "r.toml")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    words = [*TORCHRUN, "--nproc-per-node=2", "-m", "smalllm", "train", str(tmp_path / "r.toml")]
    done = subprocess.run([*words, "--out", str(tmp_path / "run")], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "holds a run already" in line]
    assert done.returncode == 1 and len(said) == 1 and done.stdout == ""
    assert "smalllm/" not in done.stderr  # no traceback of ours; torchrun adds its own


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["on one rank", "backward"])
def test_where_compiling_fails_all_go_on_without(tmp_path: Path, broken: str) -> None:
    """Also in the middle of a backward pass, after which the blocks of fsdp would give other gradients."""
    config = prepared_config(tmp_path, {"train.parallel": "fsdp", "model.n_layers": 2})
    plan: dict[str, Any] = {"signal": 0, "resume": False, "changes": {}, "broken": broken}
    plans = {name: plan | {"recipe": f"{name}.toml", "out": name} for name in ("never", "failed")}
    for name in plans:
        save_config(override(config, {"train.compile": name == "failed"}), tmp_path / f"{name}.toml")
    (tmp_path / "plan.json").write_text(json.dumps(plans))
    launch(2, WORKER, tmp_path)
    assert [found["failed"].get("error") for found in found_by(tmp_path, 2)] == [None, None]
    assert exact_rows(tmp_path / "failed") == exact_rows(tmp_path / "never") != []
    assert load_recipe(str(tmp_path / "failed")).train.compile is False


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--parallel", "fsdp"], ["--stream"]])
def test_killed_ranks_come_back_bit_for_bit(options: list[str]) -> None:
    words = [sys.executable, str(SCRIPTS / "rank_kill_test.py"), "--kills", "1", "--steps", "40", *options]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical after 1 kills of one of 2 ranks")


@pytest.mark.gpu
def test_on_gpus(tmp_path: Path) -> None:
    """One process per GPU through NCCL, against one process on one of them."""
    import torch

    n = torch.cuda.device_count()
    if n < 2:
        pytest.skip("needs two GPUs")
    config = prepared_config(tmp_path, {"train.device": "cuda", "model.dropout": 0.0})
    train(config, out=tmp_path / "alone")
    save_config(config, tmp_path / "r.toml")
    for parallel in ("ddp", "fsdp"):
        words = ["-m", "smalllm", "train", tmp_path / "r.toml", "--out", tmp_path / parallel]
        launch(2, *words, "--train.parallel", parallel)
        assert_same_curve(exact_rows(tmp_path / "alone"), exact_rows(tmp_path / parallel), rel=1e-3)
