"""What may happen to a run from outside: a disk that is full or fails, a signal while saving, a clock that jumps."""

import ast
import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import smalllm
from run_helpers import StopAt, exact_rows, final_files, prepared_config, train_until
from smalllm import checkpoint
from smalllm.api import train
from smalllm.checkpoint import checkpoint_paths, find_checkpoint, load_checkpoint
from smalllm.config import RunConfig
from smalllm.errors import CheckpointError
from smalllm.rundir import RunDir, read_jsonl

LAST = 12  # of 14, as in test_resume.py; saved at 4, 8 and 12


class Disturbed(StopAt):
    """Does something when the row of a step is written; stops the run at the last step."""

    def __init__(self, acts: Mapping[int, Callable[[], None]]) -> None:
        super().__init__(LAST)
        self.acts = acts

    def row(self, row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and row["step"] in self.acts:
            self.acts[row["step"]]()
        super().row(row)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return prepared_config(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_until(LAST, config, out)
    return out


def assert_same(out: Path, whole: Path) -> None:
    assert exact_rows(out) == exact_rows(whole) and final_files(out) == final_files(whole)


# --- a disk without room, or with faults

LIMITS = resource.getrlimit(resource.RLIMIT_FSIZE)


def fill() -> None:
    """From now on no file can grow beyond 20 kB: metrics still can, checkpoints cannot. (Python ignores SIGXFSZ.)"""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, LIMITS[1]))


def make_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, LIMITS)


@pytest.fixture
def room_again() -> Iterator[None]:
    yield
    make_room()


def test_a_save_without_room_costs_nothing_while_the_next_one_works(
    config: RunConfig, whole: Path, tmp_path: Path, room_again: None
) -> None:
    progress = Disturbed({5: fill, 9: make_room})
    train(config, out=tmp_path, progress=progress)
    (warning,) = [text for text in progress.said if "could not be written" in text]
    assert "step-00000008" in warning and "earlier checkpoints are untouched" in warning and "goes on" in warning
    assert [path.name for path in checkpoint_paths(RunDir(tmp_path))] == ["step-00000012", "step-00000004"]
    assert_same(tmp_path, whole)


def test_without_room_to_the_end_the_old_checkpoint_is_there(
    config: RunConfig, whole: Path, tmp_path: Path, room_again: None
) -> None:
    with pytest.raises(CheckpointError, match=r"step-00000014: could not be written .*free some space"):
        train(config, out=tmp_path, progress=Full())
    make_room()
    (kept,) = checkpoint_paths(RunDir(tmp_path))
    assert load_checkpoint(kept).state.step == 4
    train_until(LAST, config, tmp_path, resume=True)
    assert_same(tmp_path, whole)


class Full(StopAt):
    """A disk that is full from step 5 on; nobody stops the run."""

    def __init__(self) -> None:
        super().__init__(-1)

    def row(self, row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and row["step"] == 5:
            fill()


def test_a_row_without_room_stops_the_run_and_loses_no_checkpoint(
    config: RunConfig, whole: Path, tmp_path: Path
) -> None:
    """What /dev/full answers is what a full disk does."""
    metrics, aside = RunDir(tmp_path).metrics, tmp_path / "aside"

    def replace_metrics() -> None:
        metrics.rename(aside)
        metrics.symlink_to("/dev/full")

    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OSError, match="No space left on device") as caught:
        train(config, out=tmp_path, progress=Disturbed({6: replace_metrics}))
    assert caught.value.errno == errno.ENOSPC  # which the command explains: tests/cli/test_bad_input.py
    metrics.unlink()
    aside.rename(metrics)
    train_until(LAST, config, tmp_path, resume=True)
    assert_same(tmp_path, whole)


def test_a_disk_that_fails_while_saving(
    config: RunConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    progress = Disturbed(
        {5: lambda: monkeypatch.setattr(os, "fsync", fail), 9: lambda: monkeypatch.setattr(os, "fsync", sync)}
    )
    train(config, out=tmp_path, progress=progress)
    assert any("step-00000008: could not be written" in text and "Input/output error" in text for text in progress.said)
    assert_same(tmp_path, whole)


def test_a_disk_without_room_for_the_name_of_the_best_is_survived(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 4 has its place; the file that names it the best has none."""
    write, failed = checkpoint.write_text, []

    def fail_once(path: Path, text: str) -> None:
        if path.name == "best" and not failed:
            failed.append(text)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(checkpoint, "write_text", fail_once)
    progress = Disturbed({})
    train(with_evaluations(config), out=tmp_path, progress=progress)
    assert failed == ["step-00000004\n"]
    assert any("best: cannot be written" in text and "training goes on" in text for text in progress.said)
    best = load_checkpoint(find_checkpoint(tmp_path))
    assert best.state.best_step == best.state.step > 4


def with_evaluations(config: RunConfig) -> RunConfig:
    return replace(config, eval=replace(config.eval, every=4))


# --- a signal while a checkpoint is being written


@pytest.mark.parametrize("at_call", [1, 3, 5])
def test_a_signal_while_saving_lets_it_finish(
    config: RunConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_call: int
) -> None:
    sync, calls = os.fsync, []

    def interrupted(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == at_call:
            os.kill(os.getpid(), signal.SIGTERM)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    stopped = train(config, out=tmp_path)
    # the save at 4, and the next step
    assert stopped == {"stopped": "SIGTERM", "steps": 5, "saved_steps": 5, "run": str(tmp_path)}
    names = [path.name for path in checkpoint_paths(RunDir(tmp_path))]
    assert names == ["step-00000005", "step-00000004"] and not list(RunDir(tmp_path).checkpoints.glob(".writing-*"))
    train_until(LAST, config, tmp_path, resume=True)
    assert_same(tmp_path, whole)


# --- a clock that jumps


def test_a_clock_that_jumps_changes_nothing(
    config: RunConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's time goes back and forth by years, and the times of files say the wrong order."""
    now, jumps = time.time, [0.0]

    def jump(seconds: float) -> Callable[[], None]:
        return lambda: jumps.append(seconds)

    monkeypatch.setattr(time, "time", lambda: now() + jumps[-1])
    monkeypatch.setattr(time, "time_ns", lambda: int((now() + jumps[-1]) * 1e9))
    train(config, out=tmp_path, progress=Stopped(9, {2: jump(-3e8), 5: jump(3e8), 7: jump(-9e8)}))
    newest, older = checkpoint_paths(RunDir(tmp_path))[:2]
    for path, age_s in ((newest, 9e8), (older, -9e8)):  # the newest looks old, the older one is of the future
        for file in (path, *path.iterdir()):
            os.utime(file, (now() - age_s, now() - age_s))
    train(config, out=tmp_path, resume=True, progress=Disturbed({11: jump(5e8)}))
    assert_same(tmp_path, whole)
    elapsed_s = [row["elapsed_s"] for row in read_jsonl(RunDir(tmp_path).metrics)]
    assert elapsed_s == sorted(elapsed_s) and 0 < elapsed_s[-1] < 600
    assert all(row["step_time_s"] > 0 for row in read_jsonl(RunDir(tmp_path).metrics) if row["split"] == "train")


class Stopped(Disturbed):
    """The same, stopped at a step."""

    def __init__(self, step: int, acts: Mapping[int, Callable[[], None]]) -> None:
        super().__init__(acts)
        self.step = step


WALL_CLOCKS = {"time", "time_ns", "now", "today", "utcnow", "st_mtime", "st_ctime", "getmtime", "getctime"}


def wall_clocks(code: str) -> list[str]:
    """Where code looks at the system's time or at a file's."""
    return [
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and node.attr in WALL_CLOCKS
        and (node.attr != "time" or (isinstance(node.value, ast.Name) and node.value.id == "time"))
    ]


def test_nothing_looks_at_the_system_s_time() -> None:
    """Durations come from clocks that only go forward, and which file is newer from its name."""
    source = Path(smalllm.__file__).parent
    found = {str(path.relative_to(source)): wall_clocks(path.read_text()) for path in source.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == ALLOWED
    assert sorted(wall_clocks("import time\nx = time.time()\nos.stat(p).st_mtime")) == [
        "st_mtime",
        "time",
    ]  # the partner


ALLOWED = {
    "data/hub.py": ["st_mtime"],  # of snapshots in a cache, where nothing else says which is newer
    "serving/models.py": ["st_mtime"],  # a model's card says when it was made
    "serving/plan.py": ["time"],  # answers say when they were made
    "tracking/tensorboard.py": ["time"],  # its events are dated
}
