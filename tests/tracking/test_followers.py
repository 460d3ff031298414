"""Trackers read what a run writes; whatever they do, the run neither stops nor waits long."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, lockf
from pathlib import Path
from typing import Any

import pytest

from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.protocols import Tracker
from smalllm.recipes import override, save_config
from smalllm.rundir import RunDir, append_jsonl, read_json, read_jsonl, rewind_jsonl, write_json
from smalllm.tracking.child import Tail
from smalllm.tracking.followers import Hear, following
from smalllm.tracking.names import check_installed

HERE = Path(__file__).parent
ODD = ("Plain", "Speaks", "RaisesAtOnce", "RaisesLater", "Dies", "Hangs", "HangsAtEnd", "Slow")
PLACES = {name: f"odd_trackers:{name}" for name in ODD}


@pytest.fixture(autouse=True)
def odd_trackers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "a run")
    changes = {"eval.sample_prompts": ("", "Once"), "model.n_layers": 3}
    save_config(override(RunConfig(), changes), made.config)
    return made


def follow(run: RunDir, *names: str, said: list[str] | None = None, patience_s: float = 20.0, **options: Any) -> Any:
    notice = [].append if said is None else said.append
    options = {"project": "p", "name": None, "places": PLACES, **options}
    return following(run, names, notice=notice, patience_s=patience_s, **options)


def write_steps(run: RunDir, first: int, last: int, *, loss: float = 1.0) -> None:
    for step in range(first, last + 1):
        append_jsonl(run.metrics, {"split": "train", "step": step, "loss": loss, "lr": 0.5, "grad_norm": float("nan")})
        if step % 4 == 0:
            append_jsonl(run.metrics, {"split": "val", "step": step, "loss": 2 * loss, "bits_per_byte": 3.0})
            append_jsonl(run.samples, {"step": step, "prompt": "Once", "text": " upon"})


def calls(run: RunDir, name: str = "Plain", kind: str = "log") -> list[list[Any]]:
    path = run.tracking / name / "calls.jsonl"
    return [call[1:] for call in map(json.loads, path.read_text().splitlines()) if call[0] == kind]


def logged(run: RunDir, key: str, name: str = "Plain") -> list[tuple[int, Any]]:
    return [(step, values[key]) for step, values in calls(run, name) if key in values]


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_everything_that_a_run_writes_is_logged(run: RunDir) -> None:
    said: list[str] = []
    with follow(run, "Plain", said=said) as hear:
        write_steps(run, 1, 9)
        hear()
        write_json(run.result, {"steps": 9, "recipe": "x", "val": {"bits_per_byte": 2.5}})
    assert said == []
    assert logged(run, "train/loss") == [(step, 1.0) for step in range(1, 10)]
    assert logged(run, "val/bits_per_byte") == [(4, 3.0), (8, 3.0)]
    assert logged(run, "sample/1") == [(4, "Once upon"), (8, "Once upon")]
    assert logged(run, "result/val/bits_per_byte") == [(9, 2.5)]
    assert logged(run, "train/grad_norm") == []  # there was none
    ((_, is_continued, config),) = calls(run, kind="begin")
    assert not is_continued and config["model.n_layers"] == 3 and config["eval.sample_prompts"] == " Once"
    assert len(calls(run, kind="end")) == 1
    assert "chatter" in (run.tracking / "Plain/log.txt").read_text()


def test_rows_are_logged_while_the_run_goes_on(run: RunDir) -> None:
    with follow(run, "Plain"):
        write_steps(run, 1, 2)
        wait_for((run.tracking / "Plain/calls.jsonl").exists)
        wait_for(lambda: len(logged(run, "train/loss")) == 2)
        assert calls(run, kind="end") == []
        write_steps(run, 3, 3)
    assert [step for step, _ in logged(run, "train/loss")] == [1, 2, 3]


def test_a_notice_is_passed_on(run: RunDir) -> None:
    said: list[str] = []
    with follow(run, "Speaks", said=said) as hear:
        write_steps(run, 1, 1)
        wait_for(lambda: hear() or said)
    assert said == ["a word to the wise"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("RaisesAtOnce", "PermissionError: no such user"),
        ("RaisesLater", "OSError: connection reset"),
        ("Dies", "Dies failed (it ended without a word)"),
    ],
)
def test_a_tracker_that_fails_is_dropped_with_one_notice(run: RunDir, name: str, why: str) -> None:
    said: list[str] = []
    with follow(run, name, "Plain", said=said) as hear:
        write_steps(run, 1, 5)
        wait_for(lambda: hear() or said)
        write_steps(run, 6, 7)
        for _ in range(3):
            hear()
    (notice,) = said
    assert why in notice and "goes on without it" in notice
    assert len(logged(run, "train/loss")) == 7  # its neighbour is as well as ever
    assert len(read_jsonl(run.metrics)) == 8


@pytest.mark.parametrize("name", ["Hangs", "HangsAtEnd"])
def test_a_tracker_that_hangs_is_stopped_in_bounded_time(run: RunDir, name: str) -> None:
    said: list[str] = []
    with follow(run, name, "Plain", said=said, patience_s=3.0) as hear:
        write_steps(run, 1, 5)
        wait_for((run.tracking / name / "calls.jsonl").exists)
        began_at = time.monotonic()
        for _ in range(100):
            hear()
        assert time.monotonic() - began_at < 1.0
        left_at = time.monotonic()
    assert time.monotonic() - left_at < 8.0
    (notice,) = said
    assert f"{name} did not finish within 3 s" in notice
    assert len(logged(run, "train/loss")) == 5


def test_a_slow_tracker_does_not_slow_the_run_and_gets_all(run: RunDir) -> None:
    began_at = time.monotonic()
    with follow(run, "Slow") as hear:
        write_steps(run, 1, 30)
        hear()
        assert time.monotonic() - began_at < 1.0  # 30 rows of 0.05 s, the start of the process not counted
    assert len(logged(run, "train/loss", "Slow")) == 30


def test_a_run_that_fails_still_ends_its_trackers(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), follow(run, "Plain"):
        write_steps(run, 1, 2)
        raise ZeroDivisionError
    assert len(logged(run, "train/loss")) == 2 and len(calls(run, kind="end")) == 1


# --- several sittings


def test_a_resume_continues_the_same_run_and_logs_no_step_twice(run: RunDir) -> None:
    with follow(run, "Plain"):
        write_steps(run, 1, 6)
    rewind_jsonl(run.metrics, step=4)  # as a resume from the checkpoint of step 4 does
    rewind_jsonl(run.samples, step=4)
    with follow(run, "Plain"):
        write_steps(run, 5, 9, loss=7.0)
    steps = [step for step, _ in logged(run, "train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert logged(run, "sample/1") == [(4, "Once upon"), (8, "Once upon")]
    (first, was_continued, _), (second, is_continued, _) = calls(run, kind="begin")
    assert first == second and not was_continued and is_continued
    (run.tracking / "Plain/position.json").unlink()  # without its memory it would log them all again
    with follow(run, "Plain"):
        pass
    assert len(logged(run, "train/loss")) == 18


def test_what_a_tracker_missed_it_gets_at_the_next_sitting(run: RunDir) -> None:
    with follow(run, "RaisesLater"):
        write_steps(run, 1, 6)
    assert [step for step, _ in logged(run, "train/loss", "RaisesLater")] == [1, 2, 3]
    with follow(run, "RaisesLater", "Plain", places={**PLACES, "RaisesLater": "odd_trackers:Plain"}):
        write_steps(run, 7, 8)
    assert [step for step, _ in logged(run, "train/loss", "RaisesLater")] == [1, 2, 3, 3, 4, 5, 6, 7, 8]  # 3 failed
    assert [step for step, _ in logged(run, "train/loss")] == list(range(1, 9))  # one that is new gets all


def test_nothing_new_opens_nothing(run: RunDir) -> None:
    for _ in range(2):
        with follow(run, "Plain"):
            if not run.metrics.exists():
                write_steps(run, 1, 2)
    assert len(calls(run, kind="begin")) == 1


def test_another_project_is_another_run(run: RunDir) -> None:
    for project in ("p", "q"):
        with follow(run, "Plain", project=project):
            if project == "p":
                write_steps(run, 1, 2)
    ids = [call[0] for call in calls(run, kind="begin")]
    assert len(set(ids)) == 2 and len(logged(run, "train/loss")) == 4
    assert read_json(run.tracking / "Plain/position.json")["id"] == ids[1]


@pytest.mark.parametrize("name", ["Plain", "Hangs"])
def test_a_killed_run_leaves_no_process_behind(run: RunDir, name: str) -> None:
    patience_s = 0.5 if name == "Hangs" else 20.0  # on a busy machine a tracker that works takes a while, too
    program = f"""
        import os, signal, sys, time
        from pathlib import Path
        from smalllm.rundir import RunDir, append_jsonl
        from smalllm.tracking.followers import following
        run = RunDir(Path({str(run.path)!r}))
        places, patience_s = {PLACES!r}, {patience_s}
        with following(run, [{name!r}], project="p", name=None, notice=print, places=places, patience_s=patience_s):
            append_jsonl(run.metrics, {{"split": "train", "step": 4, "loss": 1.0}})
            while not (run.tracking / {name!r} / "calls.jsonl").exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: has_let_go(run.tracking / name / ".lock"))
    assert len(calls(run, name, kind="end")) == (name == "Plain")
    wait_for(lambda: not list(processes_of(run)))


def has_let_go(lock: Path) -> bool:
    """Whether the tracker's process, which holds its lock until it has done all it will do, has let it go."""
    with open(lock, "r+") as file:
        try:
            lockf(file, LOCK_EX | LOCK_NB)
        except OSError:
            return False
    return True


def processes_of(run: RunDir) -> Iterator[str]:
    # -ww: else COLUMNS in the environment cuts the lines, and no process would ever be found
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    yield from (line for line in listed.splitlines() if "tracking.child" in line and str(run.path) in line)


def test_processes_are_found_among_those_that_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with follow(run, "Plain"):
        wait_for(lambda: list(processes_of(run)))


# --- parts


def test_tail_waits_for_the_end_of_a_line_and_survives_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"step"')
    assert tail.read() == [{"step": 1}]
    assert tail.read() == []
    with open(path, "a") as file:
        file.write(': 2}\nnonsense\n[3]\n{"no": "step"}\n\n{"step": 4}\n')
    assert tail.read() == [{"step": 2}, {"step": 4}]


def test_tail_reads_a_file_that_was_cut_back_from_its_start(tmp_path: Path) -> None:
    """As when a run goes back to a checkpoint: no row after that is lost, however long the file becomes again."""
    path = tmp_path / "rows.jsonl"
    for step in range(10, 160, 10):
        append_jsonl(path, {"step": step})
    tail = Tail(path)
    assert len(tail.read()) == 15
    rewind_jsonl(path, step=100)
    for step in range(110, 300, 10):
        append_jsonl(path, {"step": step, "again": True})
    assert [row["step"] for row in tail.read()] == list(range(10, 300, 10))
    append_jsonl(path, {"step": 300})
    assert tail.read() == [{"step": 300}]


def test_tail_reads_a_long_file_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"step": step, "text": "x" * (3_000_000 if step == 2 else 400_000)} for step in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail, pieces = Tail(path), []
    while piece := tail.read():
        pieces.append(piece)
    assert [row for piece in pieces for row in piece] == rows
    assert len(pieces) > 3


def test_a_missing_package_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed(["json"])
    (tmp_path / "surely_absent").mkdir()  # such a folder is what W&B leaves behind, under its own name
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_installed(["json", "surely_absent", "also_absent"])
    assert [f"pip install 'smalllm[{name}]'" in str(caught.value) for name in ("surely_absent", "also_absent")]
    assert len(caught.value.problems) == 2


def test_hear_is_cheap(run: RunDir) -> None:
    with follow(run, "Plain") as hear:
        assert seconds_of(hear, 1_000) < 0.5


def seconds_of(hear: Hear, times: int) -> float:
    began_at = time.monotonic()
    for _ in range(times):
        hear()
    return time.monotonic() - began_at


def test_the_odd_trackers_are_trackers() -> None:
    sys.path.insert(0, str(HERE))
    try:
        import odd_trackers
    finally:
        sys.path.remove(str(HERE))
    assert all(isinstance(getattr(odd_trackers, name)(), Tracker) for name in ODD)
    assert os.path.samefile(odd_trackers.__file__ or "", HERE / "odd_trackers.py")
