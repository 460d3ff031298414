"""Each tracker in the mode that stays on this machine, through a whole run, its files read back where they can be."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from run_helpers import prepared_config
from smalllm.api import train
from smalllm.errors import ConfigError
from smalllm.problems import problems
from smalllm.protocols import Silent
from smalllm.recipes import from_dict, load_recipe, override
from smalllm.rundir import RunDir, read_json, read_jsonl

CHANGES: dict[str, Any] = {
    "train.max_steps": 6,
    "train.save_every": 3,
    "eval.every": 3,
    "eval.sample_prompts": ("The", "|"),
    "track.project": "tests",
}


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "SWANLAB_API_KEY",
        "SWANLAB_MODE",
        "TRACKIO_SPACE_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home/netrc"))
    (tmp_path / "home").mkdir()


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def train_twice(folder: Path, tracker: str) -> tuple[RunDir, list[str]]:
    """Six steps, then three more: all of them shown by one tracker. Returns the run and all that was said of it."""
    said, out = Said(), folder / "run"
    config = prepared_config(folder, {**CHANGES, "track.trackers": (tracker,)})
    train(config, out=out, progress=said)
    train(config, out=out, resume=True, changes={"train.max_steps": 9}, progress=said)
    assert (out / "tracking" / tracker / "position.json").exists()
    position = read_json(out / "tracking" / tracker / "position.json")
    assert position["logged"] == {"train": 9, "val": 9, "sample/0": 9, "sample/1": 9, "result": 9}
    assert len([row for row in read_jsonl(out / "metrics.jsonl") if row["split"] == "train"]) == 9
    lines = [line for line in said.lines if tracker in line]
    assert [line for line in lines if "failed" in line or "did not finish" in line] == []
    return RunDir(out), lines


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, said = train_twice(tmp_path, "tensorboard")
    assert said == []
    found = EventAccumulator(str(run.tracking / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    rows = {row["step"]: row for row in read_jsonl(run.metrics) if row["split"] == "train"}
    shown = found.Scalars("train/loss")
    assert [event.step for event in shown] == list(rows)
    assert [event.value for event in shown] == pytest.approx([row["loss"] for row in rows.values()], rel=1e-6)
    assert [event.step for event in found.Scalars("val/bits_per_byte")] == [3, 6, 9]
    assert [event.step for event in found.Scalars("result/val/bits_per_byte")] == [6, 9]
    samples = [json.loads(line) for line in run.samples.read_text().splitlines()]
    texts = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("sample/0")]
    assert texts == ["The" + sample["text"] for sample in samples if sample["prompt"] == "The"]
    (config,) = found.Tensors("config")  # once, though there were two sittings
    assert b"| model.n_layers | 1 |" in config.tensor_proto.string_val[0]
    train(load_recipe(str(run.path)), out=run.path, resume=True, changes={"track.name": "another"})  # all rows again
    anew = EventAccumulator(str(run.tracking / "tensorboard"), size_guidance={"scalars": 0})
    anew.Reload()
    assert [event.step for event in anew.Scalars("train/loss")] == list(rows)


def test_wandb_writes_files_to_upload_later(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run, said = train_twice(tmp_path, "wandb")
    position = read_json(run.tracking / "wandb/position.json")
    folders = list((run.tracking / "wandb/wandb").glob("offline-run-*"))
    assert folders and all(folder.name.endswith(position["id"]) for folder in folders)  # one run, whatever the sitting
    written = b"".join(file.read_bytes() for folder in folders for file in folder.glob("*.wandb"))
    assert b"train/loss" in written and b"val/bits_per_byte" in written and b"model.n_layers" in written
    assert list(run.tracking.glob("wandb/wandb/offline-run-*/files/media/html/sample/*.html"))
    assert said and all("not logged in" in line for line in said)


def test_swanlab_writes_files_to_upload_later(tmp_path: Path) -> None:
    pytest.importorskip("swanlab")
    run, said = train_twice(tmp_path, "swanlab")
    written = b"".join(file.read_bytes() for file in (run.tracking / "swanlab").rglob("*.swanlab"))
    assert b"train/loss" in written and b"val/bits_per_byte" in written
    assert any("model.n_layers" in file.read_text() for file in run.tracking.rglob("config.yaml"))
    assert said and all("not logged in" in line for line in said)


def test_trackio_has_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    run, said = train_twice(tmp_path, "trackio")
    assert said == []
    with contextlib.closing(sqlite3.connect(tmp_path / "home/tests.db")) as database:
        found = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    rows = [(name, step, json.loads(values)) for name, step, values in found]
    assert {name for name, _, _ in rows} == {f"run-{read_json(run.tracking / 'trackio/position.json')['id'][:4]}"}
    assert [step for _, step, values in rows if "train/loss" in values] == list(range(1, 10))
    assert [step for _, step, values in rows if "val/bits_per_byte" in values] == [3, 6, 9]
    assert [step for _, step, values in rows if "sample/1" in values] == [6, 9]


# --- around a run


def test_a_tracker_that_was_added_at_the_end_gets_the_whole_run(tmp_path: Path) -> None:
    config, out = prepared_config(tmp_path, CHANGES), tmp_path / "run"
    train(config, out=out)
    assert not (out / "tracking").exists()
    train(config, out=out, resume=True, changes={"track.trackers": ("tensorboard",)})
    position = read_json(out / "tracking/tensorboard/position.json")
    assert position["logged"]["train"] == 6 and position["logged"]["result"] == 6
    assert load_recipe(str(out)).track.trackers == ("tensorboard",)


def test_a_run_is_the_same_with_and_without_trackers(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, CHANGES)
    train(config, out=tmp_path / "without")
    train(override(config, {"track.trackers": ("tensorboard",)}), out=tmp_path / "with")
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("with", "without")]
    assert losses[0] == losses[1]


def test_a_tracker_without_its_package_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(prepared_config(tmp_path), {"track.trackers": ("wandb",)})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'smalllm\[wandb\]'"):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run/config.toml").exists()


def test_names_of_trackers_are_checked() -> None:
    with pytest.raises(ConfigError, match=r'track.trackers = .*must be a list of "wandb" or .*did you mean "swanlab"'):
        from_dict({"track": {"trackers": ["tensorboard", "swanlob"]}})
    assert from_dict({"track": {"trackers": ["tensorboard", "swanlab"]}}).track.trackers == ("tensorboard", "swanlab")
    wrong = problems(from_dict({"track": {"project": " "}}))
    assert wrong == ['track.project = " ": must not be empty; leave it out for the default']
