"""`find_lr` on a whole recipe: what it returns and writes, and what it leaves as it was."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from run_helpers import options_of, prepared_config, tiny_config, tree
from smalllm.api import building, find_lr, train
from smalllm.cli import main
from smalllm.errors import ConfigError, DataError
from smalllm.protocols import Silent
from smalllm.recipes import override, save_config
from smalllm.training.step import LossFunction, make_loss_function

MAX_LR = 30.0  # a tiny model bears much


def test_it_suggests_and_leaves_everything_else_alone(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"track.trackers": ("tensorboard",), "train.max_minutes": 3.0})
    before = tree(tmp_path)
    with contextlib.chdir(tmp_path):
        found = find_lr(config, max_lr=MAX_LR, steps=60)
    after = tree(tmp_path)
    assert set(after) - set(before) == {"find-lr/shakespeare/find_lr.json", "find-lr/shakespeare/find_lr.png"}
    assert {name: after[name] for name in before} == before
    assert json.loads((tmp_path / "find-lr/shakespeare/find_lr.json").read_text()) == found
    assert found["lr"] is not None and 1e-5 < found["lr"] < 1.0
    assert found["rates"][0] == 1e-6 and len(found["losses"]) == len(found["smoothed"]) == len(found["rates"]) <= 60
    assert found["optimizer"] == "adamw" and "muon_lr" not in found
    train(
        override(config, {"track.trackers": (), "train.max_minutes": None}), out=tmp_path / "run"
    )  # partner: this does
    assert set(tree(tmp_path)) - set(after)


def test_the_same_twice(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    first, second = (find_lr(config, out=tmp_path / name, steps=20, max_lr=1.0) for name in ("a", "b"))
    assert first == second
    assert find_lr(override(config, {"train.seed": 5}), out=tmp_path / "c", steps=20)["losses"] != first["losses"]


def test_muon_rises_in_proportion(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"optim.kind": "muon", "optim.lr": 1e-3, "optim.muon_lr": 1e-2})
    found = find_lr(config, out=tmp_path / "out", steps=60, max_lr=MAX_LR)
    assert found["muon_lr_per_lr"] == pytest.approx(10) and found["muon_lr"] == pytest.approx(10 * found["lr"])


def test_fine_tuning_has_a_rate_of_its_own(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    train(config, out=tmp_path / "origin")
    before = tree(tmp_path / "origin")
    tuned = override(config, {"train.init_from": str(tmp_path / "origin")})
    new, old = (find_lr(c, out=tmp_path / "out", steps=20) for c in (config, tuned))
    assert old["losses"][0] < new["losses"][0] - 0.1
    assert tree(tmp_path / "origin") == before


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_lr(override(config, {"optim.lr": 0.0}), out=tmp_path / "out", steps=3, min_lr=2.0)
    assert [words in str(caught.value) for words in ("--steps 3", "--min-lr 2", "optim.lr = 0")] == [True] * 3
    with pytest.raises(ConfigError, match="--max-lr inf"):
        find_lr(config, max_lr=float("inf"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["file", "file/below", "closed"])
def test_an_out_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    config = prepared_config(tmp_path)
    (tmp_path / "file").write_text("precious")
    if name == "closed":  # even root writes no file here
        name = "/proc/self/find-lr"

    class Measuring(Silent):
        def advance(self, done: int, note: str = "") -> None:
            pytest.fail("measured, though the result would be lost")

    with pytest.raises(ConfigError, match=r"cannot be written in .* choose another --out"):
        find_lr(config, out=tmp_path / name, steps=20, progress=Measuring())
    assert (tmp_path / "file").read_text() == "precious"


def test_tasks_are_not_opened(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"eval.tasks": (f"hellaswag={tmp_path / 'missing.jsonl'}",)})
    find_lr(config, out=tmp_path / "out", steps=20)
    with pytest.raises(DataError):  # the partner: training wants them
        train(config, out=tmp_path / "run")


def test_micro_batches_shrink_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepared_config(tmp_path, {"model.dropout": 0.0})
    whole = find_lr(config, out=tmp_path / "whole", steps=20)
    said: list[str] = []

    def limited(*args: Any, **options: Any) -> LossFunction:
        loss_function = make_loss_function(*args, **options)

        def loss(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
            if len(token_ids) > 2:
                torch.empty(1 << 50, dtype=torch.uint8)  # more than any machine has
            return loss_function(model, token_ids, targets)

        return loss

    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(building, "make_loss_function", limited)
    found = find_lr(config, out=tmp_path / "out", steps=20, progress=Told())
    assert any("memory did not hold 4 sequences at a time" in text for text in said)
    assert found["losses"] == pytest.approx(whole["losses"], rel=1e-5)


@pytest.mark.parametrize("mode", ["shards", "stream"])
def test_data_must_be_there_and_are_not_made(tmp_path: Path, mode: str) -> None:
    config = tiny_config(tmp_path, {"data.mode": mode})
    with pytest.raises(DataError, match="smalllm prepare"):
        find_lr(config, out=tmp_path / "out")
    assert not (tmp_path / "data").exists() and not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepared_config(tmp_path)
    recipe, out = tmp_path / "mine.toml", tmp_path / "out"
    save_config(config, recipe)
    words = ["find-lr", str(recipe), "--steps", "60", "--max-lr", str(MAX_LR), "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "suggested: " in said.out and f"smalllm train {recipe} --optim.lr " in said.out
    assert "1/60, loss" in said.err and "documents" not in said.err
    assert main([*words, "--json", *options_of({"optim.lr": 0.5})]) == 0
    assert json.loads(capsys.readouterr().out)["configured_lr"] == 0.5
    assert main([*words[:3], "20", "--max-lr", "2e-6", "--out", str(out)]) == 0
    assert "no suggestion: " in capsys.readouterr().out
    assert main(["find-lr", str(recipe), "--steps", "3"]) == 2


def test_the_picture_shows_what_was_found(tmp_path: Path) -> None:
    from matplotlib.image import imread

    from smalllm.reporting.lr_plot import write_lr_plot

    rates = [10.0 ** (-6 + i / 10) for i in range(60)]
    losses = [3.0 - min(i, 40) / 20 + max(0, i - 45) / 3 for i in range(60)]
    facts = {"recipe": "a $1 recipe", "rates": rates, "losses": losses, "smoothed": losses, "lr": 1e-3,
             "lowest_lr": 1e-2, "steepest_lr": 3e-4}  # fmt: skip
    pictures = []
    for changes in ({}, {"lr": None, "lowest_lr": None, "steepest_lr": None}, {"muon_lr_per_lr": 0.5}):
        write_lr_plot({**facts, **changes}, tmp_path / "plot.png")
        pictures.append((tmp_path / "plot.png").read_bytes())
    assert imread(tmp_path / "plot.png").shape[:2] == (960, 1800)
    assert len(set(pictures)) == 3
    write_lr_plot({**facts, "rates": [], "losses": [], "smoothed": [], "lr": None}, tmp_path / "plot.png")
    assert not list(tmp_path.glob("*.partial"))
