"""A signal to torchrun, or to one of its processes: the run is saved, and goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from run_helpers import exact_rows, final_files, options_of, prepared_config
from smalllm.checkpoint import load_checkpoint
from smalllm.recipes import load_recipe, override, save_config
from smalllm.rundir import RunDir, read_jsonl

WORKER = Path(__file__).parent / "ranks_worker.py"
SLOW_DISK = Path(__file__).parent / "slow_disk.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENDLESS = {"train.max_steps": 1_000_000, "eval.every": 0, "optim.schedule": "constant"}
LIMIT_S = 120
MORE = 4  # steps after the resume


def rank_process(torchrun: int, rank: int) -> int:
    """The process of a rank."""
    for child in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank} among the children of torchrun")


def stop_run(folder: Path, words: list[str], stop: Callable[[int], None]) -> str:
    """Start a run without an end, stop it once it has some rows; what was said."""
    command = [*TORCHRUN, *words, "train", "r.toml", "--out", "stopped", *options_of(ENDLESS)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            began_at = time.monotonic()
            while len(read_jsonl(RunDir(folder / "stopped").metrics)) < 5:
                assert process.poll() is None and time.monotonic() - began_at < LIMIT_S
                time.sleep(0.01)
            stop(process.pid)
            _, said = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 1
    return said


def assert_saved(folder: Path, said: str, name: str) -> int:
    """The last step that was done is the one that was saved, and the user is told."""
    stopped = RunDir(folder / "stopped")
    step = exact_rows(stopped.path)[-1]["step"]
    assert f"stopped by {name} at step {step:,}; everything is saved; continue with: smalllm train r.toml" in said
    assert (stopped.checkpoints / "latest").read_text() == f"step-{step:08d}\n"
    assert "smalllm/" not in said  # no traceback of ours; torchrun adds its own
    assert load_checkpoint(stopped.checkpoints / f"step-{step:08d}").state.step == step
    return int(step)


def assert_saved_and_exact(folder: Path, said: str, name: str) -> None:
    """With some more steps it is a run that was left alone."""
    step = assert_saved(folder, said, name)
    changes = {"train.max_steps": step + MORE}
    plan = {
        name: {"recipe": "r.toml", "out": name, "signal": 0, "resume": True, "changes": changes}
        for name in ("stopped", "whole")
    }
    save_config(override(load_recipe(str(folder / "r.toml")), ENDLESS | changes), folder / "r.toml")
    (folder / "plan.json").write_text(json.dumps(plan))
    subprocess.run([*TORCHRUN, str(WORKER), str(folder)], check=True, capture_output=True, timeout=LIMIT_S)
    assert exact_rows(folder / "stopped") == exact_rows(folder / "whole")
    assert final_files(folder / "stopped") == final_files(folder / "whole")


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """With data and a recipe of ddp or fsdp."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("ranks are looked up in /proc, which is not here")
    made = tmp_path / request.param
    made.mkdir()
    save_config(prepared_config(made, {"train.parallel": request.param}), made / "r.toml")
    return made


@pytest.mark.parametrize("folder", ["ddp"], indirect=True)
def test_a_signal_to_torchrun_saves(folder: Path) -> None:
    """The short form of the next test."""
    said = stop_run(folder, ["-m", "smalllm"], lambda pid: os.kill(pid, signal.SIGTERM))
    assert_saved(folder, said, "SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ddp", "fsdp"], indirect=True)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_torchrun(folder: Path, name: str) -> None:
    said = stop_run(folder, ["-m", "smalllm"], lambda pid: os.kill(pid, getattr(signal, name)))
    assert_saved_and_exact(folder, said, name)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ddp", "fsdp"], indirect=True)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_while_saving_takes_long(folder: Path, rank: int) -> None:
    """torchrun ends all ranks as soon as one has ended: none may end before rank 0 has saved."""

    def stop(torchrun: int) -> None:
        os.kill(rank_process(torchrun, rank), signal.SIGTERM)

    said = stop_run(folder, [str(SLOW_DISK)], stop)
    assert_saved_and_exact(folder, said, "SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ddp"], indirect=True)
def test_signals_that_come_again_while_it_saves(folder: Path) -> None:
    """As Slurm sends them, to every process of a job; and a user who presses Ctrl-C again."""

    def stop(torchrun: int) -> None:
        ranks = [rank_process(torchrun, rank) for rank in (0, 1)]
        for pid in (*ranks, torchrun):
            os.kill(pid, signal.SIGTERM)
        for _ in range(3):
            time.sleep(1.2)
            for pid in ranks:
                os.kill(pid, signal.SIGTERM)

    said = stop_run(folder, [str(SLOW_DISK)], stop)
    assert_saved_and_exact(folder, said, "SIGTERM")
