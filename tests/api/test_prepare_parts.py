"""`smalllm prepare --part I/N` on every machine, then `--merge`: the documents that one machine would have prepared."""

import json
from pathlib import Path
from typing import Any

import pytest

from run_helpers import tree
from smalllm import cli
from smalllm.api import load_recipe, merge_parts, override, prepare
from smalllm.config import RunConfig
from smalllm.data.parts import part_path
from smalllm.data.shards import read_manifest, verify_shards
from smalllm.data.summary import read_summary
from smalllm.errors import ConfigError, DataError

OPTIONS = ["--data.files", "files", "--tokenizer.kind", "bytes", "--data.val_fraction", "0.3"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("files").mkdir()
    for number in range(5):
        lines = [json.dumps({"text": f"{number}.{i} " + "é" * i}) for i in range(20)]
        Path("files", f"{number}.jsonl").write_text("\n".join(lines))


def call(*options: str) -> int:
    return cli.main(["prepare", "shakespeare", *OPTIONS, *options])


def config(**changes: Any) -> RunConfig:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    usual = {"data.files": ("files",), "tokenizer.kind": "bytes", "data.val_fraction": 0.3}
    return override(load_recipe("shakespeare"), usual | dotted)


def test_parts_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", "whole") == 0
    for task in (2, 0, 1):
        assert call("--out", "out", "--part", f"{task}/3") == 0
        assert (
            "next, when all parts are there: smalllm prepare shakespeare --merge --out out" in capsys.readouterr().out
        )
    before = tree(Path("out"))
    assert call("--out", "out", "--part", "1/3") == 0  # there already
    assert tree(Path("out")) == before
    assert call("--out", "out", "--merge") == 0
    assert (
        "next: smalllm train shakespeare --data.files files --data.val_fraction 0.3 --data.path out"
        in capsys.readouterr().out
    )
    found, whole = read_manifest(Path("out")), read_manifest(Path("whole"))
    verify_shards(Path("out"), found)
    assert found.source == {**whole.source, "tasks": 3}
    for split in ("train", "val"):
        for key in ("documents", "tokens", "text_bytes"):
            assert getattr(found.splits[split], key) == getattr(whole.splits[split], key)
    assert read_summary(Path("out")) == read_summary(Path("whole"))
    assert call("--out", "out", "--part", "1/3") == 1
    assert "out: holds manifest.json" in capsys.readouterr().err


def test_files_for_validation_are_dealt_out_too() -> None:
    for name in ("a", "b", "c"):
        Path(f"{name}.txt").write_text(f"held out {name}")
    split = config(data__val_files=("a.txt", "b.txt", "c.txt"))
    for task in range(2):
        prepare(split, out=Path("out"), part=(task, 2))
    parts = [read_manifest(part_path(Path("out"), task)).splits for task in range(2)]
    assert [part["val"].documents for part in parts] == [2, 1]
    assert [part["train"].documents for part in parts] == [60, 40]
    assert merge_parts("out").splits["val"].documents == 3


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--part", "3/3"], 2, "part 3/3: expected I/N, with I from 0 to N - 1"),
        (["--part", "0/0"], 2, "part 0/0: expected I/N"),
        (["--part", "1"], 2, "--part 1: expected I/N"),
        (["--part=-1/3"], 2, "--part -1/3: expected I/N"),
        (["--part", "0/6"], 2, "5 files cannot be prepared in 6 parts"),
        (["--part", "0/2", "--merge"], 2, "make the parts first"),
        (["--part", "0/2", "--data.dedup", "true"], 2, "data.dedup is true, but a part cannot know"),
        (["--part", "0/2", "--tokenizer.kind", "huggingface"], 2, "--tokenizer.path SAMPLE/tokenizer"),
        (["--merge"], 1, "found no finished part"),
    ],
)
def test_wrong_parts_are_explained(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    assert call("--out", "out", "--tokenizer.vocab_size", "None", *options) == code
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "shakespeare", *OPTIONS, "--out", "my data"],
        ["train", "shakespeare", "--data.path", "my data"],
        ["inspect", "my data"],
    ],
    ids=["prepare", "train", "inspect"],
)
def test_parts_that_are_not_merged(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    prepare(config(), out=Path("my data"), part=(0, 2))
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "holds parts/, which are not merged" in said and "prepare RECIPE --merge --out 'my data'" in said
    assert not list(Path("my data").glob("*.bin")) and not Path("my data/manifest.json").exists()


@pytest.mark.parametrize("words", [["train", "shakespeare", "--data.path", "out"], ["inspect", "out"]])
def test_what_is_not_finished(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    prepare(config(), out=Path("out"))
    Path("out/manifest.json").rename("out/.prepare.json")  # what is there while it is prepared
    assert cli.main(words) == 1
    assert "out: its preparation has not finished" in capsys.readouterr().err


def test_only_files_have_parts() -> None:
    with pytest.raises(ConfigError, match=r"only files can be prepared in parts, not url"):
        prepare(config(data__files=()), out=Path("out"), part=(0, 2))


def test_parts_with_other_options_are_not_merged() -> None:
    prepare(config(), out=Path("out"), part=(0, 2))
    prepare(config(data__val_fraction=0.2), out=Path("out"), part=(1, 2))
    with pytest.raises(DataError, match=r"parts/00001: .*source.val_fraction is 0\.2, in 00000 0\.3"):
        merge_parts("out")
