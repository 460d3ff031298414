"""Odd surroundings: closed descriptors, encodings without all characters, names that are no text, commands to paste."""

import errno
import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from run_helpers import TINY, options_of, prepared_config, train_until
from smalllm import cli
from smalllm.errors import ConfigError, RunError
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, locked

Captured = pytest.CaptureFixture[str]
QUICK = {name: value for name, value in TINY.items() if name != "eval.sample_prompts"} | {"train.max_steps": 2}


def program(*words: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = shlex.join([sys.executable, "-m", "smalllm", *words])
    return subprocess.run(
        ["bash", "-c", f"{command} {redirected}"], capture_output=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    stories = (f"One day {n} foxes met {n + 1} hens.\nThey went home. The end.\n" for n in range(400))
    (tmp_path / "fable.txt").write_text("".join(stories))
    return tmp_path / "fable.txt"


def test_a_terminal_without_a_character_shows_it_escaped() -> None:
    done = program("report", "--help", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0 and b"RUN" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "0<&-", "2>&- 0<&-"])
def test_closed_descriptors(text: Path, closed: str) -> None:
    words = [
        "prepare",
        "shakespeare",
        "--data.files",
        "fable.txt",
        "--data.separator",
        "The end.",
        "--data.workers",
        "2",
    ]
    done = program(*words, "--data.path", "d", "--json", redirected=closed)
    assert done.returncode == 0 and json.loads(done.stdout)["path"] == "d"


def test_a_name_that_is_no_text(text: Path, capsys: Captured) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    text.rename(name)
    prepare = ["prepare", "shakespeare", "--data.files", ".", "--data.path", "d"]
    assert program(*prepare).returncode == 0  # a folder with such a file
    assert cli.main(["train", "shakespeare", "--data.files", name, "--data.path", "d", "--out", "run"]) == 2
    assert "data.files = 'caf\\udce9.txt': is not UTF-8" in capsys.readouterr().err
    assert not Path("run/config.toml").exists()


@pytest.mark.parametrize("name", ["~$notes.txt", "~nobody-of-this-name/x.txt"])
def test_a_tilde_that_is_nobody_s(text: Path, name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    text.rename(name)
    assert cli.main(["prepare", "shakespeare", "--data.files", name, "--data.path", "d"]) == 0


def test_a_file_system_that_cannot_lock_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(RunError, match="cannot lock a file"), locked(RunDir(tmp_path / "run")):
        pass


def test_prompts_from_a_file_with_a_byte_order_mark(tmp_path: Path, capsys: Captured) -> None:
    train_until(2, prepared_config(tmp_path), tmp_path / "run")
    (tmp_path / "prompts.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "The"}\n')
    words = ["--prompts", str(tmp_path / "prompts.jsonl"), "--max-tokens", "2", "--json"]
    assert cli.main(["generate", str(tmp_path / "run"), *words]) == 0
    assert "The" in capsys.readouterr().out


# --- commands that are printed, to be run as they are


def following(shown: str) -> list[str]:
    """The words of the command that comes next, as the shell takes them."""
    (line,) = [line for line in shown.splitlines() if "next: smalllm" in line]
    printed = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + line.split("next: smalllm ")[1]], capture_output=True, check=True
    )
    return printed.stdout.decode().split("\0")[:-1]


def test_what_prepare_and_find_lr_propose_can_be_run(text: Path, capsys: Captured) -> None:
    shape = options_of({name: value for name, value in QUICK.items() if not name.startswith("train.max")})
    given = ["--data.files=fable.txt", "--data.separator", "The end.\n", *shape, "--optim.kind", "muon"]
    assert cli.main(["prepare", "shakespeare", *given, "--data.path", "my data"]) == 0
    train = following(capsys.readouterr().out)
    assert train[-2:] == ["--data.path", "my data"] and "muon" in train
    assert cli.main([*train, "--train.max_steps", "2", "--out", "run"]) == 0
    assert load_recipe("run").optim.kind == "muon" and load_recipe("run").model.d_model == TINY["model.d_model"]
    capsys.readouterr()
    assert cli.main(["find-lr", *train[1:], "--optim.lr", "0.1", "--steps", "40"]) == 0
    found = capsys.readouterr().out
    if "suggested" in found:
        words = following(found)
        assert words.count("--optim.lr") == words.count("--optim.muon_lr") == 1 and "my data" in words
        assert cli.main([*words, "--train.max_steps", "2", "--out", "again"]) == 0


def test_other_text_than_the_data_was_made_of_is_refused(text: Path, tmp_path: Path, capsys: Captured) -> None:
    config = prepared_config(tmp_path)  # from a text of its own
    made = ["train", "shakespeare", "--data.path", str(config.data.path), *options_of(QUICK)]
    assert cli.main([*made, "--data.files", str(text), "--out", "run"]) == 2
    assert "was prepared from other text (files is" in capsys.readouterr().err
    assert cli.main([*made, "--data.val_fraction", "0.3", "--out", "run"]) == 2
    assert "val_fraction is 0.1, asked for 0.3" in capsys.readouterr().err and not Path("run/metrics.jsonl").exists()
    (own,) = config.data.files
    os.rename(own, "away.txt")  # shards go where their text does not
    assert cli.main([*made, "--data.files", own, "--data.val_fraction", "0.1", "--out", "run"]) == 0


def test_text_that_cannot_be_written_down_is_a_problem() -> None:
    from smalllm.problems import check

    with pytest.raises(ConfigError, match=r"data\.files = 'caf.*is not UTF-8"):
        check(override(load_recipe("shakespeare"), {"data.files": ("fine", "caf\udce9")}))
