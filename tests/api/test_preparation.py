"""`prepare` as users call it: any number of processes, a trial that writes nothing, rates on the way, a summary."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from run_helpers import tree
from smalllm import cli
from smalllm.api import load_recipe, override, prepare
from smalllm.api.preparation import Trial, partial_tokens, try_prepare
from smalllm.config import RunConfig
from smalllm.data import pieces
from smalllm.data.summary import Longest, Tally, read_summary
from smalllm.errors import ConfigError, DataError
from smalllm.protocols import Silent
from smalllm.tokenizers import build_tokenizer, load_tokenizer

DRAW = random.Random(1)
WORDS = ["".join(DRAW.choices("abcdefgh猫é", k=DRAW.randrange(1, 9))) for _ in range(400)]
TEXTS = [" ".join(DRAW.choices(WORDS, k=DRAW.randrange(1, 60))) for _ in range(400)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pieces, "BATCH_BYTES", 4000)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS[:100]}), "b.parquet")


def config(**changes: object) -> RunConfig:
    given = {
        "data.files": ("a.jsonl", "b.parquet"),
        "data.val_fraction": 0.2,
        "data.shard_tokens": 3000,
        "tokenizer.kind": "bytes",
    }
    return override(load_recipe("shakespeare"), given | {key.replace("__", "."): v for key, v in changes.items()})


@pytest.mark.parametrize(("kind", "vocab_size"), [("bytes", None), ("huggingface", 300), ("sentencepiece", 350)])
def test_any_number_of_processes_writes_the_same(kind: str, vocab_size: int | None) -> None:
    for n in (1, 2, 3):
        asked = config(tokenizer__kind=kind, tokenizer__vocab_size=vocab_size, data__workers=n, data__dedup=True)
        prepare(asked, out=Path(f"out-{n}"))
    assert tree(Path("out-1")) == tree(Path("out-2")) == tree(Path("out-3"))
    prepare(replace(asked, data=replace(asked.data, dedup=False)), out=Path("all"))
    assert tree(Path("all")) != tree(Path("out-1"))  # the partner: other options do change the bytes


class Interrupted(Exception):
    pass


class Stopping(Silent):
    """Stops in the middle, and keeps what was said before."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def advance(self, done: int, note: str = "") -> None:
        if done > 200:
            raise Interrupted


def test_the_number_of_processes_may_change_when_it_goes_on() -> None:
    prepare(config(data__workers=1), out=Path("whole"))
    with pytest.raises(Interrupted):
        prepare(config(data__workers=3), out=Path("cut"), progress=Stopping())
    prepare(config(data__workers=2), out=Path("cut"))
    assert tree(Path("cut")) == tree(Path("whole"))


def test_workers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"data\.workers = 0: must be at least 1"):
        prepare(config(data__workers=0), out=Path("out"))


class Notes(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, str]] = []

    def advance(self, done: int, note: str = "") -> None:
        self.notes.append((done, note))


def test_rates_and_the_time_left_are_told() -> None:
    told = Notes()
    prepare(config(data__workers=2), out=Path("out"), progress=told)
    assert len(told.notes) > 5
    assert [done for done, _ in told.notes] == sorted(done for done, _ in told.notes)
    done, note = told.notes[-1]
    assert done == 500
    for words in (" MB, ", " tokens, ", " MB/s, ", " tokens/s"):
        assert words in note
    assert any(note.endswith(" s left") for _, note in told.notes)


# --- the tokenizer of what is there


TRAINED = {"tokenizer__kind": "huggingface", "tokenizer__vocab_size": 300}


@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        (TRAINED, {"tokenizer__vocab_size": 290}),
        (TRAINED, {"tokenizer__path": "other/tokenizer"}),
        (TRAINED, {"tokenizer__kind": "bytes", "tokenizer__vocab_size": None}),
        ({}, TRAINED),
    ],
    ids=["size", "path", "kind", "trained"],
)
@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
def test_another_tokenizer_is_refused(begun: dict[str, Any], changes: dict[str, Any], is_finished: bool) -> None:
    prepare(config(**TRAINED, data__files=("b.parquet",)), out=Path("other"))
    if is_finished:
        prepare(config(**begun), out=Path("out"))
    else:
        with pytest.raises(Interrupted):
            prepare(config(**begun), out=Path("out"), progress=Stopping())
    before = tree(Path("out"))
    with pytest.raises(DataError, match=r"holds (the unfinished preparation of )?other data.*sha256 is"):
        prepare(config(**begun | changes), out=Path("out"))
    assert tree(Path("out")) == before
    prepare(config(**begun), out=Path("out"))
    prepare(config(**begun), out=Path("whole"))
    assert tree(Path("out")) == tree(Path("whole"))


def test_a_tokenizer_is_trained_once() -> None:
    for n, stops in enumerate([True, False, False]):  # begun, continued, finished
        progress = Stopping()
        with pytest.raises(Interrupted) if stops else contextlib.nullcontext():
            prepare(config(**TRAINED), out=Path("out"), progress=progress if n != 1 else Silent())
        assert any("training a huggingface tokenizer" in said for said in progress.said) == (n == 0)
    with pytest.raises(DataError, match=r"source\.files is"):
        prepare(config(**TRAINED, data__files=("a.jsonl",)), out=Path("out"))


def test_the_tokenizer_is_written_by_who_holds_the_directory() -> None:
    """A second call replaces no file that the processes of the first have yet to load."""
    with pytest.raises(Interrupted):
        prepare(config(), out=Path("out"), progress=Stopping())
    Path("out/.prepare.json").unlink()
    shutil.rmtree("out/tokenizer")
    for shard in Path("out").glob("*.bin"):
        shard.unlink()
    holder = (
        "import sys; from pathlib import Path; from smalllm.data.directory import sole_writer\n"
        "with sole_writer(Path('out')): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is preparing"):
            prepare(config(), out=Path("out"))
        assert not Path("out/tokenizer").exists()
        other.communicate("")
    prepare(config(), out=Path("out"))
    assert load_tokenizer(Path("out/tokenizer")).kind == "bytes"


# --- the summary


def test_the_command_prints_a_summary_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "shakespeare", "--data.files", "a.jsonl", "b.parquet", "--data.dedup", "true"]
    words += ["--data.val_fraction", "0.2", "--out", "out"]
    printed = []
    for _ in range(2):
        assert cli.main(words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    longest = max(TEXTS, key=lambda text: len(text.encode()))
    size = len(longest.encode())
    assert f"longest document: {size:,} tokens, {size:,} bytes (a.jsonl:{TEXTS.index(longest) + 1})" in printed[0]
    assert f"duplicates left out: {500 - len(set(TEXTS))}" in printed[0]
    text = "".join(set(TEXTS))
    partial = sum(len(c.encode()) for c in text if ord(c) > 127) / len(text.encode())
    assert f"tokens that are only a part of a character: {partial:.2%}" in printed[0]
    assert "1.00 bytes a token of text" in printed[0]
    assert cli.main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["duplicates"] == 500 - len(set(TEXTS)) and summary["partial_share"] == pytest.approx(partial)


def test_data_of_an_older_version_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "shakespeare", "--data.files", "a.jsonl", "--out", "out"]
    assert cli.main(words) == 0
    assert "longest document" in capsys.readouterr().out
    Path("out/summary.json").unlink()
    assert cli.main(words) == 0
    assert "longest document" not in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] is None


def test_the_name_of_a_folder_is_not_in_the_summary(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
        prepare(config(data__files=(f"{name}/a.jsonl",)), out=Path(f"out-{name}"))
    assert tree(Path("out-one")) == tree(Path("out-two"))


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "huggingface"])
def test_which_tokens_are_a_part_of_a_character(kind: str) -> None:
    size = {"sentencepiece": 350, "huggingface": 300}.get(kind)
    tokenizer = build_tokenizer(kind, vocab_size=size, path=None, texts=lambda: iter(TEXTS))
    found = partial_tokens(tokenizer)
    assert len(found) == tokenizer.vocab_size and not found[tokenizer.eos_id]
    assert not found[tokenizer.encode("a b c")].any()
    assert found[tokenizer.encode("\U00050000")].all()


# --- a trial


def test_a_trial_counts_as_prepare_does_and_writes_nothing() -> None:
    before = tree(Path())
    trial = try_prepare(config(data__dedup=True), n_documents=10**6)
    assert tree(Path()) == before
    prepare(config(data__dedup=True), out=Path("out"))
    assert trial.tally == read_summary(Path("out")) and trial.share == 1


def test_a_trial_of_a_few_documents_guesses_the_whole() -> None:
    whole = try_prepare(config(data__files=("a.jsonl",)), n_documents=10**6).tally
    trial = try_prepare(config(data__files=("a.jsonl",), data__workers=4), n_documents=200)
    assert trial.tally.documents == 200 and trial.n_workers == 4
    expected = trial.expected()
    assert expected["tokens"] == pytest.approx(whole.tokens, rel=0.1)
    assert expected["documents"] == pytest.approx(400, rel=0.1)
    assert expected["shard_bytes"] == 2 * expected["tokens"]
    assert trial.share is not None
    assert expected["elapsed_s"] == pytest.approx(trial.elapsed_s / trial.share / 4)


def test_a_trial_whose_share_is_not_known_guesses_nothing() -> None:
    tally = Tally(1, 2, 3, 0, 0, Longest(2, 3, "x"))
    assert Trial(tally=tally, share=None, elapsed_s=1.0, n_workers=1, id_bytes=2).expected() == {}


@pytest.mark.parametrize(
    ("n", "words"),
    [("200", "the whole, estimated: "), ("1000000", "that is all of the source")],
)
def test_a_dry_run_on_the_command_line(capsys: pytest.CaptureFixture[str], n: str, words: str) -> None:
    command = ["prepare", "shakespeare", "--data.files", "a.jsonl", "--out", "out", "--dry-run", n]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert words in shown and "longest document" in shown and "nothing was written" in shown
    assert not Path("out").exists() and not Path("data").exists()
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["documents"] == min(400, int(n)) and set(found["expected"]) >= {"tokens", "elapsed_s"}


def test_a_dry_run_of_no_documents_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", "shakespeare", "--data.files", "a.jsonl", "--dry-run", "0"]) == 2
    assert "--dry-run 0: must be at least 1" in capsys.readouterr().err


def test_a_source_without_a_size_is_tried_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["prepare", "python", "--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "None", "--dry-run", "9"])
        == 0
    )
    assert "is not known" in capsys.readouterr().out
    words = ["--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "None", "--dry-run", "100"]
    assert cli.main(["prepare", "stories", "--data.stories", "1000", *words]) == 0
    assert "estimated: 1,0" in capsys.readouterr().out


# --- damage


def test_what_came_before_the_damage_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged line ends it with the line's name; repaired in place, the same command goes on."""
    prepare(config(), out=Path("whole"))
    whole = Path("a.jsonl").read_bytes()
    bad = bytearray(whole)
    bad[whole.index(b"\n", len(whole) // 2) + 1] = ord("[")
    Path("a.jsonl").write_bytes(bad)
    words = ["prepare", "shakespeare", "--data.files", "a.jsonl", "b.parquet", "--out", "out"]
    words += ["--data.val_fraction", "0.2", "--data.shard_tokens", "3000"]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    line = whole[: len(whole) // 2].count(b"\n") + 2
    assert f"a.jsonl:{line} is not JSON" in said and "Traceback" not in said
    done = json.loads(Path("out/.prepare.json").read_text())
    assert line - 30 < done["pieces"] < line  # all but the batch that was being filled
    Path("a.jsonl").write_bytes(whole)
    assert cli.main(words) == 0
    assert tree(Path("out")) == tree(Path("whole"))


def test_a_manifest_edited_by_hand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    prepare(config(), out=Path("out"))
    path = Path("out/manifest.json")
    found = json.loads(path.read_text())
    found["splits"]["train"]["files"][0]["tokens"] -= 1
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"splits\.train\.tokens is .* the sum over its files"):
        prepare(config(), out=Path("out"))
