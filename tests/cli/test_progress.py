"""What is shown of a run while it trains, also of one with which something is wrong."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from run_helpers import prepared_config
from smalllm import cli
from smalllm.cli import train as command
from smalllm.cli.progress import LineProgress, TerminalProgress
from smalllm.recipes import save_config
from smalllm.rundir import read_jsonl

Shown = Callable[[], str]
Made = tuple[LineProgress | TerminalProgress, Shown]


@pytest.fixture(params=["lines", "terminal"])
def made(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Made:
    """One of the two, and what it has shown since it was last asked."""
    if request.param == "lines":
        return LineProgress(), lambda: capsys.readouterr().err
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    return TerminalProgress(console), console.file.getvalue  # type: ignore[attr-defined]


def test_updates_that_are_refused_are_said_and_the_command_ends_as_documented(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress, shown = made
    monkeypatch.setattr(command, "make_progress", lambda: progress)
    save_config(prepared_config(tmp_path), tmp_path / "recipe.toml")
    out, options = tmp_path / "run", ["--optim.lr", "1e20", "--train.max_steps", "12"]  # the first update ruins it
    assert cli.main(["train", str(tmp_path / "recipe.toml"), "--out", str(out), *options]) == 1
    captured = capsys.readouterr()
    assert "WARNING: step 2: update refused: the loss is" in captured.err + shown()
    assert "lower --optim.lr" in captured.err and "Traceback" not in captured.err
    assert [row["step"] for row in read_jsonl(out / "metrics.jsonl") if row["split"] == "event"][:2] == [2, 3]


@pytest.mark.parametrize("stops", [False, True])
def test_a_run_goes_on_where_nobody_reads_its_log(tmp_path: Path, stops: bool) -> None:
    config = prepared_config(tmp_path, {"train.max_steps": 100_000} if stops else {})
    save_config(config, tmp_path / "recipe.toml")
    words = [sys.executable, "-m", "smalllm", "train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
        if stops:
            until = time.monotonic() + 60
            while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < until:
                time.sleep(0.05)
            process.terminate()
    assert process.returncode == int(stops)
    assert (tmp_path / "run/result.json").exists() is not stops
    assert any((tmp_path / "run/checkpoints").iterdir())


def test_a_row_is_shown_by_its_kind(made: Made) -> None:
    progress, shown = made
    train = {"loss": 2.5, "loss_ema": 2.6, "tokens_per_second": 100.0, "peak_memory_bytes": 1e9, "step_time_s": 0.1}
    val = {"loss": 1.5, "perplexity": 4.48, "bits_per_byte": 1.25, "accuracy": 0.5}
    task = {"task": "piqa", "acc": 0.75, "chance": 0.5, "n": 40}
    rows: list[dict[str, Any]] = [
        {"split": "train", "step": 1, **train},
        {"split": "val", "step": 2, **val},
        {"split": "task", "step": 2, **task},
        {"split": "event", "step": 3, "tokens": 96, "event": "something happened"},
    ]
    progress.begin("training", total=4)
    for row in rows:
        progress.row(row)
    progress.end()
    seen = shown()
    assert "loss 2.500" in seen or isinstance(progress, TerminalProgress)  # a bar is drawn four times a second
    assert "step 2: validation loss 1.5000" in seen and "step 2: piqa acc 0.750" in seen
    assert "something happened" not in seen  # it is said by itself
