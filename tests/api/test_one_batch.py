"""Runs with `train.overfit_one_batch`: the first check of a new model, which learns one batch by heart."""

from pathlib import Path
from typing import Any

import pytest

from run_helpers import exact_rows, prepared_config, train_until
from smalllm.api import train
from smalllm.errors import ConfigError
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, read_json

ONE: dict[str, Any] = {
    "train.overfit_one_batch": True, "train.max_steps": 150, "train.log_every": 10, "model.dropout": 0.0,
    "optim.lr": 1e-2, "optim.schedule": "linear", "optim.min_lr_ratio": 0.0, "optim.weight_decay": 0.0, "eval.every": 0,
}  # fmt: skip


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        if "overfit_one_batch" in text:
            self.lines.append(text)


def test_one_batch_is_learned_by_heart_and_a_text_is_not(tmp_path: Path) -> None:
    said, unsaid, config = Said(), Said(), prepared_config(tmp_path, ONE)
    train(config, out=tmp_path / "one", progress=said)
    began, ended = said.lines
    assert "the same 8 windows" in began and "near it" in ended and "not near" not in ended
    allowed = float(ended.split("they allow ")[1].split(":")[0])
    assert losses(tmp_path / "one")[-1] < allowed + 0.1
    train(override(config, {"train.overfit_one_batch": False}), out=tmp_path / "all", progress=unsaid)
    assert losses(tmp_path / "all")[-1] > allowed + 0.5 and unsaid.lines == []


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in exact_rows(out) if row["split"] == "train"]


def test_a_model_that_cannot_learn_is_found(tmp_path: Path) -> None:
    said = Said()
    config = prepared_config(tmp_path, {**ONE, "optim.lr": 0.0})
    train(config, out=tmp_path / "one", progress=said)
    assert ["WARNING" in line for line in said.lines] == [False, True, False]
    assert "not near it" in said.lines[-1]


@pytest.mark.parametrize("mode", ["shards", "stream"])
def test_a_resume_goes_on_with_the_same_batch(tmp_path: Path, mode: str) -> None:
    config = prepared_config(
        tmp_path, {**ONE, "train.max_steps": 12, "train.log_every": 1, "data.mode": mode, "data.separator": "\n"}
    )
    train(config, out=tmp_path / "whole")
    train_until(5, config, tmp_path / "parts")
    train(config, out=tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 12
    state = read_json(RunDir(tmp_path / "parts").checkpoints / "step-00000012/state.json")["state"]
    assert state["cursor"] == 0 and state["tokens"] == 12 * 128
    with pytest.raises(ConfigError, match="overfit_one_batch"):
        train(config, out=tmp_path / "parts", resume=True, changes={"train.overfit_one_batch": False})


def test_patience_would_end_it_early_and_is_set_aside(tmp_path: Path) -> None:
    said = Said()
    config = prepared_config(tmp_path, {**ONE, "train.max_steps": 8, "train.patience": 1, "eval.every": 1})
    train(config, out=tmp_path / "one", progress=said)
    assert "train.patience = 1 is set to 0" in said.lines[0]
    assert load_recipe(str(tmp_path / "one")).train.patience == 0
