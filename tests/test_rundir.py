"""The run directory: rows that survive crashes, atomic files, one writer."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.errors import RunError
from smalllm.rundir import (
    RunDir,
    append_jsonl,
    locked,
    read_json,
    read_jsonl,
    rewind_jsonl,
    write_json,
    write_text,
)

ROWS = [{"split": "train", "step": step, "loss": 1 / (step + 1), "text": "é\n\u2028"} for step in range(5)]


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    for row in ROWS:
        append_jsonl(path, row)
    return path


def test_rows_come_back_exactly(metrics: Path, tmp_path: Path) -> None:
    assert read_jsonl(metrics) == ROWS
    assert read_jsonl(tmp_path / "absent.jsonl") == []
    assert metrics.read_text().count("\n") == len(ROWS)


@given(st.floats())
@settings(max_examples=50, deadline=None)
def test_every_number_comes_back_or_is_null(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    append_jsonl(path, {"step": 1, "loss": value, "inner": {"values": (value,)}})
    expected = value if math.isfinite(value) else None
    assert read_jsonl(path) == [{"step": 1, "loss": expected, "inner": {"values": [expected]}}]
    assert not {"NaN", "Infinity"} & set(path.read_text().replace(",", " ").split())


def test_a_torn_last_line_is_dropped_wherever_it_was_cut(metrics: Path) -> None:
    whole = metrics.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        metrics.write_bytes(whole[:cut])
        rows = read_jsonl(metrics)
        assert rows == ROWS[:-1] or (cut == len(whole) - 1 and rows == ROWS)  # only the newline is missing


def test_after_a_rewind_a_torn_line_does_not_spoil_the_next(metrics: Path) -> None:
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-9])
    rewind_jsonl(metrics, step=99)
    append_jsonl(metrics, ROWS[-1])
    assert read_jsonl(metrics) == ROWS
    # The partner: appended to a torn line, the row is lost and the file is damaged.
    metrics.write_bytes(whole[:-9])
    append_jsonl(metrics, ROWS[-1])
    append_jsonl(metrics, ROWS[-1])
    with pytest.raises(RunError, match=r"metrics\.jsonl:5: not a JSON object"):
        read_jsonl(metrics)


@pytest.mark.parametrize("line", ["{", "5", "[1]", '{"a": 1} x', "null"])
def test_a_damaged_line_in_the_middle_is_named(metrics: Path, line: str) -> None:
    lines = metrics.read_text().split("\n")
    metrics.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(RunError, match=rf"{metrics.name}:3: not a JSON object"):
        read_jsonl(metrics)


@pytest.mark.parametrize("step", [-1, 0, 2, 4, 9])
def test_rewind_drops_what_is_after_a_step(metrics: Path, step: int) -> None:
    rewind_jsonl(metrics, step=step)
    assert read_jsonl(metrics) == ROWS[: step + 1]
    rewind_jsonl(metrics.with_name("absent.jsonl"), step=step)
    assert not metrics.with_name("absent.jsonl").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    write_text(path, "old\n")

    def fail(*_: Any) -> None:
        raise OSError("no rename today")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no rename today"):
        write_text(path, "new\n")
    assert path.read_text() == "old\n" and list(tmp_path.iterdir()) == [path]


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": (1, 2), "loss": math.inf, "inner": {"x": math.nan}})
    assert read_json(path) == {"a": [1, 2], "loss": None, "inner": {"x": None}}
    for damaged in ("", "{", "[1]", '{"a": 1'):
        path.write_text(damaged)
        assert read_json(path) == {}
    path.write_bytes(b"\xff{}")
    assert read_json(path) == {}
    assert read_json(tmp_path / "absent") == {}


def try_to_lock(run: RunDir) -> str:
    """What another process hears when it wants to write the run."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from smalllm.rundir import RunDir, locked
        try:
            with locked(RunDir(Path(sys.argv[1]))):
                print("locked")
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    return subprocess.run(
        [sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_one_writer(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with locked(run):
        heard = try_to_lock(run)
        assert heard.startswith("RunError") and "another process is writing this run" in heard
    assert try_to_lock(run) == "locked\n"  # the lock went with its holder; the file that is left holds nobody up
    assert (run.path / ".lock").exists()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(RunError, match=r"cannot be used as a run directory .*choose another --out"),
            locked(RunDir(path)),
        ):
            pass
    assert (tmp_path / "file").read_text() == "x"


def test_names_of_the_layout() -> None:
    run = RunDir(Path("r"))
    names = [run.config, run.environment, run.tokenizer, run.metrics, run.samples, run.checkpoints, run.plots]
    assert [p.name for p in [*names, run.report, run.result]] == [
        "config.toml", "environment.json", "tokenizer", "metrics.jsonl", "samples.jsonl", "checkpoints", "plots",
        "report.html", "result.json",
    ]  # fmt: skip
    assert not Path("r").exists() and json.dumps(str(run.path)) == '"r"'
