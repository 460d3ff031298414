"""Runs that start from another run's weights: what they take over, what they refuse, and that they are runs like any
other afterwards.
"""

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import smalllm
from run_helpers import (
    exact_rows,
    final_files,
    make_text,
    options_of,
    prepared_config,
    rewrite_json,
    tiny_config,
    train_until,
    tree,
)
from smalllm import cli
from smalllm.checkpoint import load_checkpoint
from smalllm.config import RunConfig
from smalllm.errors import CheckpointError, ConfigError, DataError, RunError, SmalllmError, TokenizerError
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override, save_config
from smalllm.rundir import RunDir, read_json, read_jsonl

Captured = pytest.CaptureFixture[str]
ORIGIN_STEPS, LAST = 30, 12
SHAPE = {"model.n_layers": 2, "model.d_model": 64, "model.dropout": 0.0}
FROZEN = {"optim.lr": 0.0, "optim.weight_decay": 0.0, "eval.every": 1, "model.dropout": 0.0}


@dataclass(frozen=True)
class Origin:
    """A run to start from, of two layers and learned positions, and its files as they were."""

    config: RunConfig
    out: Path
    before: dict[str, str]

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / f"step-{ORIGIN_STEPS:08d}"


def make_origin(folder: Path, changes: Mapping[str, Any] | None = None) -> Origin:
    quick = {"optim.lr": 3e-3, "train.max_steps": 40, "eval.every": ORIGIN_STEPS}
    config = prepared_config(folder, {**SHAPE, **quick, **(changes or {})})
    train_until(ORIGIN_STEPS, config, folder / "origin")
    return Origin(config, folder / "origin", tree(folder / "origin"))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another text, prepared in `data`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text(make_text(6_000, seed=9))
    prepared_config(folder)
    return folder


def tuning(home: Path, origin: Origin | Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """A tiny run on the other text that starts from a run; its own shape, were it not for that, is another."""
    path = origin if isinstance(origin, Path) else origin.out
    return tiny_config(home, {"train.init_from": str(path), **(changes or {})})


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "checkpoints" / (out / "checkpoints/latest").read_text().strip()).model


def val_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(RunDir(out).metrics) if row["split"] == "val"]


def test_it_starts_with_the_weights_of_the_origin(origin: Origin, home: Path, tmp_path: Path) -> None:
    """Seen through an update of nothing: the weights are the same bytes, and so is the loss on the other text."""
    train_until(1, tuning(home, origin, FROZEN), tmp_path / "tuned")
    sha256 = read_json(origin.checkpoint / "manifest.json")["files"]["model.safetensors"]["sha256"]
    assert final_files(tmp_path / "tuned")["model.safetensors"] == sha256
    measured = smalllm.evaluate(origin.out, data=home / "data", tokens=256)["results"]["loss"]["loss"]
    assert val_losses(tmp_path / "tuned") == [measured]
    assert read_json(RunDir(tmp_path / "tuned").environment)["init_from"] == {
        "path": str(origin.out), "step": ORIGIN_STEPS, "sha256": sha256,
    }  # fmt: skip
    assert tree(origin.out) == origin.before
    # The partners: an update of something, and new weights of the same shape.
    train_until(1, tuning(home, origin, {**FROZEN, "optim.lr": 1e-3}), tmp_path / "moved")
    train_until(1, tiny_config(home, {**SHAPE, **FROZEN}), tmp_path / "new")
    for other in ("moved", "new"):
        assert final_files(tmp_path / other)["model.safetensors"] != sha256
        assert val_losses(tmp_path / other) != [measured]
    assert "init_from" not in read_json(RunDir(tmp_path / "new").environment)


def test_it_learns_sooner_than_new_weights(origin: Origin, home: Path, tmp_path: Path) -> None:
    train_until(LAST, tuning(home, origin, {"optim.lr": 3e-4}), tmp_path / "tuned")
    train_until(LAST, tiny_config(home, {**SHAPE, "optim.lr": 3e-3}), tmp_path / "new")
    tuned, new = val_losses(tmp_path / "tuned"), val_losses(tmp_path / "new")
    assert tuned[-1] < tuned[0] < new[-1] - 0.2
    state = load_checkpoint(tmp_path / "tuned/checkpoints" / f"step-{LAST:08d}").state
    assert state.tokens == LAST * 128  # its own counters, from 0
    rates = [row["lr"] for row in read_jsonl(RunDir(tmp_path / "tuned").metrics) if row["split"] == "train"]
    assert rates[0] < rates[2] == pytest.approx(3e-4)  # its own warmup


def test_a_checkpoint_can_be_named(origin: Origin, home: Path, tmp_path: Path) -> None:
    train_until(1, tuning(home, origin.checkpoint, FROZEN), tmp_path)
    train_until(1, tuning(home, origin, FROZEN), tmp_path / "run")
    assert final_files(tmp_path) == final_files(tmp_path / "run")


def test_the_best_checkpoint_of_a_run_is_meant(origin: Origin, home: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(origin.out, longer)
    train_until(ORIGIN_STEPS + 2, origin.config, longer, resume=True)  # latest moves on, best stays
    assert (longer / "checkpoints/latest").read_text() != (longer / "checkpoints/best").read_text()
    train_until(1, tuning(home, longer, FROZEN), tmp_path / "tuned")
    assert read_json(RunDir(tmp_path / "tuned").environment)["init_from"]["step"] == ORIGIN_STEPS


def test_it_has_the_shape_of_the_origin_and_says_so(origin: Origin, home: Path, tmp_path: Path) -> None:
    said = train_until(1, tuning(home, origin, {"model.dropout": 0.25, "model.init": "zero"}), tmp_path / "tuned")
    assert f"starting from the weights of {origin.checkpoint}" in said
    assert "the model has their shape, not the recipe's: n_layers 2 (not 1), d_model 64 (not 32)" in said
    asked, found = load_recipe(str(origin.out)).model, load_recipe(str(tmp_path / "tuned")).model
    assert found.dropout == 0.25 and found.init == "zero"
    assert (found.n_layers, found.d_model, found.d_ff, found.position) == (2, 64, 256, asked.position)
    same = train_until(1, tuning(home, origin, SHAPE), tmp_path / "same")
    assert not any("shape" in text for text in same)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_shorter_context_keeps_the_first_positions(origin: Origin, home: Path, tmp_path: Path, position: str) -> None:
    if position == "rope":
        origin = make_origin(tmp_path, {"model.position": "rope"})
    config = tuning(home, origin, {**FROZEN, "model.context_length": 8})
    said = train_until(1, config, tmp_path / "tuned", changes={"model.context_length": 8})
    assert not any("context_length" in text for text in said)
    found, whole = weights_of(tmp_path / "tuned"), weights_of(origin.out)
    name = "position_embedding.weight"
    assert (name in found) == (position == "learned")
    if name in found:
        assert whole[name].shape == (16, 64) and torch.equal(found.pop(name), whole.pop(name)[:8])
    assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in found)
    stored = load_recipe(str(tmp_path / "tuned"))
    assert stored.model.context_length == 8 and stored.model.position == position
    # What it scores is what the origin scores on windows of eight: no position is off by one.
    ids = torch.arange(40, 48)[None]
    loaded = smalllm.load_run(tmp_path / "tuned").model, smalllm.load_run(origin.out).model
    with torch.no_grad():
        logits = [model(ids) for model in loaded]
        assert torch.equal(*logits) and not torch.allclose(logits[0], loaded[1](ids + 1))


def test_a_longer_context_becomes_the_origins_and_an_explicit_one_is_refused(
    origin: Origin, home: Path, tmp_path: Path
) -> None:
    config = tuning(home, origin, {"model.context_length": 32})
    said = train_until(1, config, tmp_path / "tuned")
    assert any("context_length 16 (not 32)" in text for text in said)
    assert load_recipe(str(tmp_path / "tuned")).model.context_length == 16
    with pytest.raises(
        ConfigError, match=r"model\.context_length = 32: train\.init_from = .* was trained with 16; give 1 to 16"
    ):
        smalllm.train(config, out=tmp_path / "refused", changes={"model.context_length": 32})
    # Steps are cut into windows of the context that comes out, not of the recipe's.
    fitting = override(config, {"train.tokens_per_step": 80, "train.micro_batch_size": 5})
    with pytest.raises(ConfigError, match=r"multiple of model\.context_length = 32"):
        smalllm.train(override(fitting, {"train.init_from": None}), out=tmp_path / "new")
    train_until(1, fitting, tmp_path / "fitting")
    odd = override(config, {"model.context_length": 24, "train.tokens_per_step": 120, "train.micro_batch_size": None})
    with pytest.raises(ConfigError, match=r"tokens_per_step = 120: must be a multiple of model\.context_length = 16"):
        smalllm.train(odd, out=tmp_path / "odd")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("model.n_layers", 3, r"model\.n_layers = 3: the weights of train\.init_from = .*origin have 2; leave it out"),
        ("model.d_ff", 128, r"model\.d_ff = 128: .* have 256"),
        ("model.position", "rope", r"model\.position = rope: .* have learned"),
        ("model.tie_embeddings", False, r"model\.tie_embeddings = False: .* have True"),
        ("model.norm_eps", 1e-6, r"model\.norm_eps = 1e-06: .* have 1e-05"),
        ("tokenizer.kind", "gpt2", r"tokenizer\.kind = gpt2: .* was trained with bytes"),
        ("tokenizer.vocab_size", 300, r"tokenizer\.vocab_size = 300: .* was trained with 257"),
    ],
)
def test_a_field_that_contradicts_the_origin(
    origin: Origin, home: Path, tmp_path: Path, name: str, value: Any, says: str
) -> None:
    config = tuning(home, origin, {name: value})
    with pytest.raises(ConfigError, match=says):
        smalllm.train(config, out=tmp_path / "run", changes={name: value})
    assert not RunDir(tmp_path / "run").config.exists()
    train_until(1, config, tmp_path / "run")  # the recipe's own value gives way


def test_fields_that_agree_with_the_origin_are_fine(origin: Origin, home: Path, tmp_path: Path) -> None:
    given = {**SHAPE, "model.d_ff": 256, "model.n_kv_heads": 2, "model.context_length": 16, "tokenizer.kind": "bytes"}
    config = tuning(home, origin, given)
    train_until(1, config, tmp_path, changes=given)
    train_until(2, config, tmp_path, changes=given, resume=True)


def test_all_contradictions_are_named_at_once(origin: Origin, home: Path, tmp_path: Path) -> None:
    changes = {"model.n_layers": 3, "model.context_length": 99, "tokenizer.kind": "gpt2"}
    with pytest.raises(ConfigError) as caught:
        smalllm.train(tuning(home, origin, changes), out=tmp_path, changes=changes)
    assert len(caught.value.problems) == 3


RATES = {"optim.lr": 1e-3, "optim.muon_lr": 0.02}


@pytest.mark.parametrize(
    ("given", "kind", "lr", "muon_lr"),
    [
        (("train.init_from",), "adamw", 1e-4, 0.02),
        (("train.init_from",), "muon", 1e-4, 0.002),
        (("train.init_from", "optim.lr"), "muon", 1e-3, 0.002),
        (("train.init_from", "optim.muon_lr"), "muon", 1e-4, 0.02),
        (("train.init_from", "optim.lr", "optim.muon_lr"), "muon", 1e-3, 0.02),
        (("train.init_from", "optim.lr"), "adamw", 1e-3, 0.02),
        ((), "adamw", 1e-3, 0.02),
    ],
    ids=["adamw", "muon", "lr given", "muon_lr given", "both given", "the only one given", "said by a file"],
)
def test_the_rate_is_a_tenth_unless_it_is_given(
    origin: Origin, home: Path, tmp_path: Path, given: tuple[str, ...], kind: str, lr: float, muon_lr: float
) -> None:
    config = tuning(home, origin, {**RATES, "optim.kind": kind})
    said = train_until(1, config, tmp_path, changes={name: None for name in given})
    stored = load_recipe(str(tmp_path)).optim
    assert (stored.lr, stored.muon_lr) == (lr, muon_lr)
    notices = [text for text in said if "a tenth of the recipe's rate" in text]
    assert len(notices) == (lr == 1e-4 or muon_lr == 0.002)
    for notice in notices:
        assert ("optim.lr 0.0001 (not 0.001)" in notice) == ("--optim.lr" in notice) == (lr == 1e-4)
        assert ("optim.muon_lr 0.002 (not 0.02)" in notice) == (muon_lr == 0.002)
    # A resume with the same words does not lower them again.
    train_until(2, config, tmp_path, changes={"train.init_from": str(origin.out)} if given else {}, resume=True)
    assert load_recipe(str(tmp_path)).optim == stored


def test_a_recipe_that_starts_from_a_run_has_rates_for_that(origin: Origin, home: Path, tmp_path: Path) -> None:
    """Also where the command line names another run than it does."""
    given = {"train.init_from": str(origin.out)}
    rates = []
    for name, its in (("tuning", "elsewhere"), ("plain", None)):
        save_config(override(tuning(home, origin), {"train.init_from": its, **RATES}), tmp_path / f"{name}.toml")
        config = override(load_recipe(str(tmp_path / f"{name}.toml")), given)
        train_until(1, config, tmp_path / name, changes=given, name=str(tmp_path / f"{name}.toml"))
        rates.append(load_recipe(str(tmp_path / name)).optim.lr)
    assert rates == [1e-3, 1e-4]


def test_it_repeats_from_its_stored_configuration(origin: Origin, home: Path, tmp_path: Path) -> None:
    given = {"train.init_from": str(origin.out)}
    train_until(LAST, tuning(home, origin), tmp_path / "tuned", changes=given)
    stored = RunDir(tmp_path / "tuned").config
    train_until(LAST, load_recipe(str(stored)), tmp_path / "again", name=str(stored))
    assert exact_rows(tmp_path / "again") == exact_rows(tmp_path / "tuned")
    assert final_files(tmp_path / "again") == final_files(tmp_path / "tuned")
    # The partner: without the run to start from it is another run.
    train_until(LAST, override(load_recipe(str(stored)), {"train.init_from": None}), tmp_path / "new")
    assert exact_rows(tmp_path / "new") != exact_rows(tmp_path / "tuned")


class Crash(BaseException):
    """What `kill -9` is from inside."""


class CrashAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def row(self, row: Mapping[str, Any]) -> None:
        if row["step"] == self.step:
            raise Crash


@pytest.mark.parametrize("crash_at", [2, 7])
def test_resumed_without_the_origin_it_is_bit_for_bit_the_same(
    origin: Origin, home: Path, tmp_path: Path, crash_at: int
) -> None:
    """Dropout, accumulation, a crash before (2) or after (7) the first checkpoint, stops in between."""
    copy, given = tmp_path / "copy", {"train.init_from": str(tmp_path / "copy")}
    shutil.copytree(origin.out, copy)
    config = tuning(home, copy, {"model.dropout": 0.1})
    train_until(LAST, config, tmp_path / "whole", changes=given)
    out = tmp_path / "run"
    with pytest.raises(Crash):
        smalllm.train(config, out=out, changes=given, progress=CrashAt(crash_at))
    if crash_at == 2:  # it has no checkpoint of its own yet
        assert not list(RunDir(out).checkpoints.glob("step-*"))
        said = train_until(3, config, out, changes=given, resume=True)
        assert any("starting from the weights of" in text for text in said)
    facts = read_json(RunDir(out).environment)["init_from"]
    shutil.rmtree(copy)
    said = train_until(9, config, out, changes=given, resume=True)
    assert not any("starting from" in text for text in said)
    train_until(LAST, config, out, resume=True)
    assert exact_rows(out) == exact_rows(tmp_path / "whole")
    assert final_files(out) == final_files(tmp_path / "whole")
    assert read_json(RunDir(out).environment)["init_from"] == facts  # kept by the sittings that could not read it
    # The partner: one that has no checkpoint does need it.
    with pytest.raises(CheckpointError, match=r"train\.init_from: .*copy: neither a run directory nor a checkpoint"):
        smalllm.train(config, out=tmp_path / "other", changes=given)


def test_a_resume_cannot_start_from_another_run(origin: Origin, home: Path, tmp_path: Path) -> None:
    config = tuning(home, origin)
    train_until(2, config, tmp_path / "tuned")
    train_until(2, tiny_config(home, SHAPE), tmp_path / "new")
    before = {name: tree(tmp_path / name) for name in ("tuned", "new")}
    for name, was in (("tuned", str(origin.out)), ("new", None)):
        with pytest.raises(ConfigError) as caught:
            smalllm.train(config, out=tmp_path / name, resume=True, changes={"train.init_from": "runs/other"})
        assert f"was started with {was!r}, and a resume cannot change it" in str(caught.value)
        assert tree(tmp_path / name) == before[name]
    with pytest.raises(RunError, match="holds a run already"):  # nor is the origin itself continued
        smalllm.train(config, out=origin.out)
    assert tree(origin.out) == origin.before


def test_an_origin_replaced_before_the_first_checkpoint(origin: Origin, home: Path, tmp_path: Path) -> None:
    shutil.copytree(origin.out, tmp_path / "copy")
    config = tuning(home, tmp_path / "copy")
    with pytest.raises(Crash):
        smalllm.train(config, out=tmp_path / "run", progress=CrashAt(1))
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(make_origin(tmp_path, {"model.n_layers": 1}).out, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"model\.n_layers = 2: .*copy have 1; (.|\n)*choose another --out"):
        smalllm.train(config, out=tmp_path / "run", resume=True)


def test_origins_that_cannot_be_used(origin: Origin, home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(origin.out, copy)
    save_config(origin.config, tmp_path / "begun" / "config.toml")
    weights = copy / "checkpoints" / origin.checkpoint.name / "model.safetensors"
    content = weights.read_bytes()

    def refused(path: Path, error: type[SmalllmError], says: str) -> None:
        with pytest.raises(error, match=rf"^train\.init_from: .*{says}"):
            smalllm.train(tuning(home, path), out=tmp_path / "run")
        assert not RunDir(tmp_path / "run").config.exists()

    refused(tmp_path / "nowhere", CheckpointError, "nowhere: neither a run directory nor a checkpoint")
    refused(tmp_path / "begun", CheckpointError, "begun: a run without a checkpoint yet")
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        weights.write_bytes(damaged)
        before = tree(copy)
        refused(copy, CheckpointError, r"model\.safetensors: .*the checkpoint is damaged")
        assert tree(copy) == before  # not set aside: it is another run's
    weights.write_bytes(content)
    (copy / "config.toml").rename(tmp_path / "aside.toml")
    refused(copy, RunError, r"config\.toml: missing")
    (tmp_path / "aside.toml").rename(copy / "config.toml")
    rewrite_json(copy / "tokenizer" / "smalllm.json", sha256="0" * 64)
    refused(copy, TokenizerError, "was altered")
    shutil.copytree(origin.out / "tokenizer", copy / "tokenizer", dirs_exist_ok=True)
    train_until(1, tuning(home, copy), tmp_path / "run")  # the partner: whole again, it can be


SPM = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280}


@pytest.fixture(scope="module")
def spm_origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return make_origin(tmp_path_factory.mktemp("spm origin"), SPM)


def typed(line: str) -> list[str]:
    """The words of a command as a shell reads them."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\0").split("\0")


@pytest.mark.parametrize(
    ("which", "recipe", "data"),
    [
        ("bytes", "bytes", "absent"),
        ("bytes", "path", "absent"),
        ("bytes", "sentencepiece", "of another tokenizer"),
        ("sentencepiece", "bytes", "absent"),
        ("sentencepiece", "sized", "of another tokenizer"),
        ("sentencepiece", "sentencepiece", "absent"),
        ("sentencepiece", "sentencepiece", "of another tokenizer"),
        ("sentencepiece", "path", "absent"),
    ],
)
def test_the_command_for_data_of_the_origins_tokenizer_works(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    which: str,
    recipe: str,
    data: str,
) -> None:
    """Whatever tokenizer the recipe has, what the error prints is typed in as it stands, and then training runs."""
    start: Origin = request.getfixturevalue("origin" if which == "bytes" else "spm_origin")
    spm: Origin = request.getfixturevalue("spm_origin")
    monkeypatch.chdir(tmp_path)
    config = override(
        tiny_config(tmp_path, {"data.path": "my data", "recipe": "my"}),
        {
            "bytes": {},
            "sentencepiece": {**SPM, "tokenizer.vocab_size": 290},
            "sized": {"tokenizer.vocab_size": 257},
            "path": {"tokenizer.kind": "sentencepiece", "tokenizer.path": str(spm.out / "tokenizer")},
        }[recipe],
    )
    save_config(config, tmp_path / "my.toml")
    given = {"train.init_from": str(start.out)}
    words = ["train", "my.toml", *options_of(given), "--out", "run"]
    if data != "absent":
        assert cli.main(["prepare", "my.toml"]) == 0
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert ("no prepared data here" in said) == (data == "absent")
    if data != "absent":
        origins, found = start.out / "tokenizer", Path("my data/tokenizer")
        for folder in (origins, found):
            assert f"{read_json(folder / 'smalllm.json')['sha256']}" in said
        assert "then train with --data.path 'my data-origin':" in said
        given["data.path"] = "my data-origin"
    command = typed(next(line for line in said.splitlines() if line.startswith("  smalllm prepare")))
    assert command[:3] == ["smalllm", "prepare", "my.toml"]
    assert not Path("run/config.toml").exists()
    assert cli.main(command[1:]) == 0
    following = ["smalllm", "train", "my.toml", "--train.init_from", str(start.out)]
    following += ["--data.path", given.get("data.path", "my data")]
    assert f"next: {shlex.join(following)}\n" in capsys.readouterr().out
    train_until(1, override(config, given), Path("run"), changes=given, name="my.toml")
    asked, stored = load_recipe("run").tokenizer, read_json(Path("run/tokenizer/smalllm.json"))
    assert asked.kind == stored["kind"] == which and asked.vocab_size == stored["vocab_size"]


def test_the_stored_configuration_prepares_without_the_origin(
    spm_origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(spm_origin.out, "copy")
    data = {"data.path": "data", "tokenizer.kind": "sentencepiece", "tokenizer.path": "copy/tokenizer"}
    config = tiny_config(tmp_path, {**data, "train.init_from": "copy"})
    smalllm.prepare(config)
    train_until(2, override(config, {"tokenizer.path": None}), tmp_path / "run")
    fingerprint = read_json(Path("data/manifest.json"))["tokenizer"]["sha256"]
    shutil.rmtree("data")
    shutil.rmtree("copy")
    assert cli.main(["train", "run", "--resume", "--out", str(tmp_path / "run")]) == 1
    command = typed(next(line for line in capsys.readouterr().err.splitlines() if line.startswith("  smalllm prepare")))
    assert cli.main(command[1:]) == 0
    assert read_json(Path("data/manifest.json"))["tokenizer"]["sha256"] == fingerprint
    train_until(3, load_recipe("run"), tmp_path / "run", resume=True)


def test_the_python_call_for_missing_data_works(spm_origin: Origin, tmp_path: Path) -> None:
    config = tuning(tmp_path, spm_origin, {"recipe": "no such file"})
    with pytest.raises(DataError) as caught:
        smalllm.train(config, out=tmp_path / "run")
    call = str(caught.value).splitlines()[-1]
    assert "smalllm.override(config, {'tokenizer.kind': 'sentencepiece'" in call
    exec(call.strip(), {"smalllm": smalllm, "config": config, "Path": Path})
    train_until(1, config, tmp_path / "run")


def test_from_the_command_line(
    origin: Origin, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = {
        "train.max_steps": 3, "train.tokens_per_step": 64, "train.compile": False, "train.threads": 1,
        "eval.tokens": 128, "eval.final_tokens": 128, "data.path": str(home / "data"), "optim.warmup_steps": 0,
    }  # fmt: skip
    words = ["train", "shakespeare", f"--train.init-from={origin.out}", *options_of(quick), "--out", "runs/tuned"]
    assert cli.main([*words, "--model.n_layers", "6"]) == 2
    assert "model.n_layers = 6: the weights of train.init_from" in capsys.readouterr().err
    assert cli.main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == read_json(Path("runs/tuned/result.json"))
    assert (
        "not the recipe's: n_layers 2 (not 6), n_heads 2 (not 6), d_model 64 (not 384), context_length 16 (not 256)"
        in (" ".join(shown.err.split()))
    )
    assert "optim.lr 0.0001 (not 0.001)" in shown.err
    stored = load_recipe("runs/tuned")
    assert stored.train.init_from == str(origin.out) and stored.optim.lr == 1e-4
    page = Path("runs/tuned/report.html").read_text()
    assert read_json(Path("runs/tuned/environment.json"))["init_from"]["sha256"] in page
