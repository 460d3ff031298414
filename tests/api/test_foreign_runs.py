"""Runs on shards of other programs: the same as on our own with the same ids, resumed exactly, and nothing written."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import smalllm
from foreign_helpers import NAMES, write_shards
from hub_helpers import serve_hub
from run_helpers import (
    TINY,
    StopAt,
    exact_rows,
    final_files,
    make_text,
    options_of,
    prepared_config,
    tiny_config,
    train_until,
    tree,
)
from smalllm import cli
from smalllm.api.data import load_data
from smalllm.config import RunConfig
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import CheckpointError, ConfigError, DataError, TokenizerError
from smalllm.recipes import load_recipe, override
from smalllm.tokenizers import load_tokenizer, save_tokenizer
from smalllm.tokenizers.huggingface import train_huggingface

KINDS = tuple(NAMES)


@dataclass(frozen=True)
class Ours:
    """A run on our own shards, and the ids that are in them."""

    config: RunConfig
    out: Path
    result: dict[str, Any]
    ids: dict[str, list[int]]

    def shards(self, folder: Path, kind: str) -> Path:
        return write_shards(folder, kind, **self.ids)

    def on(self, folder: Path, **changes: Any) -> RunConfig:
        return override(self.config, {"data.path": str(folder), "data.files": (), **changes})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    folder = tmp_path_factory.mktemp("ours")
    config = prepared_config(folder)
    manifest = read_manifest(folder / "data")
    streams = {split: open_split(folder / "data", manifest, split) for split in ("train", "val")}
    ids = {split: stream.read(0, stream.n_tokens).tolist() for split, stream in streams.items()}
    return Ours(config, folder / "run", smalllm.train(config, out=folder / "run"), ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_equals_one_on_our_shards_and_is_resumed_exactly(ours: Ours, tmp_path: Path, kind: str) -> None:
    folder = ours.shards(tmp_path / "shards", kind)
    before = tree(folder)
    config, out = ours.on(folder), tmp_path / "run"
    said = train_until(5, config, out)
    assert said[0].startswith(f"{folder}: {kind} shards, ") and " held out" in said[0]
    result = smalllm.train(config, out=out, resume=True)
    assert exact_rows(out) == exact_rows(ours.out)
    assert final_files(out) == final_files(ours.out)
    assert {key: result[key] for key in ("val", "unigram")} == {key: ours.result[key] for key in ("val", "unigram")}
    assert load_tokenizer(out / "tokenizer").fingerprint == load_tokenizer(ours.out / "tokenizer").fingerprint
    assert tree(folder) == before
    # The partner: other ids are another run.
    other = write_shards(tmp_path / "other", kind, train=ours.ids["train"][::-1], val=ours.ids["val"])
    train_until(5, ours.on(other), tmp_path / "another")
    assert exact_rows(tmp_path / "another")[0] != exact_rows(out)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_refuses_other_ids_and_takes_a_moved_folder(ours: Ours, tmp_path: Path, kind: str) -> None:
    folder = ours.shards(tmp_path / "shards", kind)
    train_until(5, ours.on(folder), tmp_path / "run")
    changed = list(ours.ids["train"])
    changed[len(changed) // 2] ^= 1
    write_shards(folder, kind, train=changed)
    with pytest.raises(
        CheckpointError, match=r"was trained with train_shards\[0\] \['\w{64}'\], but .* now has \['\w{64}'\]"
    ):
        smalllm.train(ours.on(folder), out=tmp_path / "run", resume=True)
    moved = ours.shards(tmp_path / "moved", kind)
    shutil.rmtree(folder)
    smalllm.train(ours.on(moved), out=tmp_path / "run", resume=True, changes={"data.path": str(moved)})
    assert final_files(tmp_path / "run") == final_files(ours.out)


def test_a_resume_needs_no_tokenizer_but_the_run_s(tmp_path: Path) -> None:
    spm = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280}
    config = prepared_config(tmp_path, spm)
    manifest = read_manifest(tmp_path / "data")
    streams = {split: open_split(tmp_path / "data", manifest, split) for split in ("train", "val")}
    ids = {split: stream.read(0, stream.n_tokens).tolist() for split, stream in streams.items()}
    folder = write_shards(tmp_path / "shards", "nanogpt", **ids)
    mine = override(config, {"data.path": str(folder), "tokenizer.path": str(tmp_path / "data/tokenizer")})
    smalllm.train(mine, out=tmp_path / "whole")
    train_until(6, mine, tmp_path / "run")
    shutil.rmtree(tmp_path / "data")
    smalllm.train(mine, out=tmp_path / "run", resume=True)
    assert final_files(tmp_path / "run") == final_files(tmp_path / "whole")
    assert smalllm.evaluate(tmp_path / "run") == smalllm.evaluate(tmp_path / "whole") | {"run": str(tmp_path / "run")}
    with pytest.raises(TokenizerError, match=r"data/tokenizer"):
        smalllm.train(mine, out=tmp_path / "new")


def test_a_run_that_starts_from_another_takes_its_tokenizer(ours: Ours, tmp_path: Path) -> None:
    folder = ours.shards(tmp_path / "shards", "llmc")
    changes = {"train.init_from": str(ours.out), "optim.lr": 1e-3}
    config = override(ours.on(folder), changes)
    train_until(3, config, tmp_path / "run", changes=changes)
    smalllm.train(config, out=tmp_path / "run", resume=True)
    own = override(ours.config, changes)
    smalllm.train(own, out=tmp_path / "own", changes=changes)
    assert final_files(tmp_path / "run") == final_files(tmp_path / "own")


def test_evaluating_on_shards_of_another_program(ours: Ours, tmp_path: Path) -> None:
    here = smalllm.evaluate(ours.out)["results"]["loss"]
    for kind in KINDS:
        progress = StopAt(-1)
        there = smalllm.evaluate(ours.out, data=ours.shards(tmp_path / kind, kind), progress=progress)
        assert there["results"]["loss"] == here
        assert progress.said[0].startswith(f"{tmp_path / kind}: {kind} shards")
    write_shards(tmp_path / "far", "npy", train=[1, 2, 300], val=[1])
    with pytest.raises(DataError, match=r"train_000001\.npy: token 2 is 300; expected ids below .* 257"):
        smalllm.evaluate(ours.out, data=tmp_path / "far")


def test_the_last_tokens_are_held_out_and_said_to_be(ours: Ours, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "x", "llmc", train=ours.ids["train"])
    config = ours.on(folder)
    said = train_until(3, config, tmp_path / "run")
    assert "held out: the last 10.00%, as no file is called val" in said[0]
    run_tokenizer = load_tokenizer(tmp_path / "run/tokenizer")
    manifest, _ = load_data(folder, command="", data=config.data, tokenizer=lambda: run_tokenizer)
    ids = {split: open_split(folder, manifest, split) for split in ("train", "val")}
    parts = [stream.read(0, stream.n_tokens).tolist() for stream in ids.values()]
    assert parts[0] + parts[1] == ours.ids["train"]
    smalllm.train(config, out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"data\.val_fraction = 0\.2.*cannot change it"):
        smalllm.train(config, out=tmp_path / "run", resume=True, changes={"data.val_fraction": 0.2})
    with pytest.raises(DataError, match=r"no file is held out"):
        smalllm.train(ours.on(folder, **{"data.val_fraction": 0.0}), out=tmp_path / "new")
    held = write_shards(tmp_path / "held", "llmc", val=ours.ids["val"])
    hub = {"data.source": "hub", "data.hub_name": "owner/name"}  # as recipes have it; its files are not read
    smalllm.train(ours.on(folder, **{"data.val_files": (str(held),)}, **hub), out=tmp_path / "new")
    assert final_files(tmp_path / "new") == final_files(ours.out)


# --- the command line


@pytest.fixture
def folder(ours: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return ours.shards(tmp_path / "shards", "nanogpt")


QUICK = {name: value for name, value in TINY.items() if name != "eval.sample_prompts"} | {"train.max_steps": 2}
TRAIN = ["train", "shakespeare", "--data.path", "shards", "--out", "run", *options_of(QUICK)]


def test_what_the_command_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "meta.pkl").write_bytes(b"never read")
    (folder / "test.bin").write_bytes(b"\1\0")
    assert cli.main([*TRAIN, "--train.max_steps", "1"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("shards: nanogpt shards, ")
    assert said[1:3] == [
        "  left aside by their names: test.bin",
        "  meta.pkl is not read: smalllm opens no pickle; [tokenizer] says what made the ids",
    ]
    text = (folder / "train.bin").read_bytes()[::2].decode()
    excerpt = text[len(text) // 2 :][:24].replace("\n", "\\n")
    assert said[3] == f'  the bytes tokenizer reads: "{excerpt}"'
    assert cli.main(["evaluate", "run", "--data", "shards"]) == 0
    assert "shards: nanogpt shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tokenizer.kind", "sentencepiece"], ["do not record their tokenizer", "--tokenizer.path"]),
        (["--data.val_files", "nowhere"], ["data.val_files: nowhere matches no file"]),
        (["--data.path", "shards/train.bin"], ["shards/train.bin: is a file; expected the folder"]),
        (
            ["--data.path", "."],
            ["no prepared data here; prepare it first:\n  smalllm prepare shakespeare", "no .bin or .npy"],
        ),
    ],
)
def test_mistakes_of_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: list[str]
) -> None:
    if words[-1] == ".":
        os.rename("shards", "elsewhere")
        Path("empty").mkdir()
        words = ["--data.path", "empty"]
    assert cli.main([*TRAIN, *words]) == 1
    said = capsys.readouterr().err
    assert all(part in said for part in says) and "Traceback" not in said, said


def test_terminal_control_characters_are_shown_not_sent(tmp_path: Path) -> None:
    ids = list(b"\x1b[31m\x07red \xc2\x9b" * 100)
    shards = write_shards(tmp_path / "x", "npy", train=ids, val=ids[5:])
    said = train_until(1, tiny_config(tmp_path, {"data.path": str(shards)}), tmp_path / "run")
    assert "\\x1b[31m\\x07red \\x9b" in said[1] and "\x1b" not in said[1] and "\x9b" not in said[1]


def test_shards_without_anyone_to_say_their_tokenizer(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, "nanogpt", train=[1, 2], val=[3])
    with pytest.raises(TokenizerError, match="nanogpt files do not record their tokenizer"):
        load_data(folder, command="")


def test_preparing_beside_them_is_what_train_then_reads(tmp_path: Path) -> None:
    """A prepared directory is ours, whatever else lies in it."""
    config = override(load_recipe("shakespeare"), {"data.files": (str(tmp_path / "t.txt"),)})
    (tmp_path / "t.txt").write_text(make_text())
    folder = write_shards(tmp_path / "x", "npy", train=[1, 2], val=[3])
    smalllm.prepare(override(config, {"tokenizer.kind": "bytes"}), out=folder)
    manifest, _ = load_data(folder, command="")
    assert manifest.layouts is None and manifest.splits["train"].tokens > 1000


def test_a_tokenizer_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = train_huggingface([make_text()], vocab_size=270)
    save_tokenizer(own, tmp_path / "gpt")
    ids = own.encode(make_text())
    shards = write_shards(tmp_path / "shards", "npy", train=ids, val=ids[5:500])
    asked = {"data.path": str(shards), "tokenizer.kind": "huggingface", "tokenizer.path": "someone/gpt"}
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["someone/gpt"] = tmp_path / "gpt"
        train_until(1, tiny_config(tmp_path, asked), tmp_path / "run")
    assert load_tokenizer(tmp_path / "run" / "tokenizer").fingerprint == own.fingerprint
