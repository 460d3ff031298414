"""`explain` on whole runs: what it returns and writes, what it says when something is cut or missing."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from run_helpers import make_text, prepared_config, rewrite_json, tree
from smalllm.api import explain, train
from smalllm.api.explain import look_inside
from smalllm.cli import main
from smalllm.errors import CheckpointError, ConfigError
from smalllm.protocols import Silent
from smalllm.reporting.explanation import Explanation
from smalllm.run import load_run

PROMPT = "The old cat"


class Listener(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def look(path: Path, prompt: str) -> Explanation:
    """The numbers alone."""
    return look_inside(load_run(path), prompt, progress=Silent())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, data and a run; for reading."""
    folder = tmp_path_factory.mktemp("explain")
    train(prepared_config(folder), out=folder / "run")
    return folder


def test_what_is_found_and_written(folder: Path, tmp_path: Path) -> None:
    before = tree(folder)
    found = explain(folder / "run", PROMPT, out=tmp_path / "out")
    assert tree(folder) == before
    assert json.loads((tmp_path / "out/explain.json").read_text()) == json.loads(json.dumps(found.as_dict()))
    run = load_run(folder / "run")
    ids = torch.tensor([run.tokenizer.encode(PROMPT)])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(run.model(ids)[0, :-1], ids[0, 1:])
    assert found.mean_bits == pytest.approx(float(loss) / 0.6931471805599453, rel=1e-4)
    assert "".join(token.text for token in found.tokens) == PROMPT and found.tokens[0].bits is None
    assert len(found.lens) == 2 and len(found.heads) == 2 and len(found.parts) == 3
    assert found.maps.shape == (1, 2, len(PROMPT), len(PROMPT))
    assert found.notices == () and "validation windows" in found.loss_measured_on
    assert found.repeated is not None and found.repeated.n_tokens == 8
    assert found.loss_by_position[-1][1] == 16


def test_the_same_twice_and_another_prompt(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        explain(folder / "run", PROMPT, out=tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert look(folder / "run", "A dog ran").as_dict() != look(folder / "run", PROMPT).as_dict()


def test_a_model_that_sees_one_token_has_nothing_to_explain(tmp_path: Path) -> None:
    train(prepared_config(tmp_path, {"model.context_length": 1}), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="context_length = 1: the model sees one token"):
        look(tmp_path / "run", PROMPT)


def test_a_long_prompt_is_cut_openly(folder: Path, tmp_path: Path) -> None:
    listener = Listener()
    found = explain(folder / "run", "x" * 5 + "abcdefghijklmnop", out=tmp_path, progress=listener)
    assert "".join(token.text for token in found.tokens) == "abcdefghijklmnop"
    assert listener.said == list(found.notices) and len(found.notices) == 1
    assert "21 tokens and the model sees 16: only its end" in found.notices[0]
    assert found.notices[0] in (tmp_path / "explain.html").read_text()
    assert look(folder / "run", "abcdefghijklmnop").notices == ()  # partner: just enough


def test_without_the_data_the_prompt_must_do(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    config = tmp_path / "copy/run/config.toml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path / "copy")))
    manifest = tmp_path / "copy/data/manifest.json"
    rewrite_json(manifest, tokenizer={**json.loads(manifest.read_text())["tokenizer"], "sha256": "0" * 64})
    for reason in ("cannot be used", "not at"):
        found = look(tmp_path / "copy/run", PROMPT)
        assert reason in found.notices[0] and "the prompt alone" in found.notices[0]
        assert found.heads_measured_on == found.loss_measured_on == "the prompt"
        assert found.loss_by_position[-1][1] <= len(PROMPT)
        shutil.rmtree(tmp_path / "copy/data", ignore_errors=True)


@pytest.mark.parametrize("changes", [{"data.document_mask": True}, {"data.packing": "padded"}])
def test_runs_on_documents_open_the_prompt(changes: dict[str, Any], tmp_path: Path) -> None:
    lines = make_text().splitlines()
    (tmp_path / "text.txt").write_text("\n---\n".join(lines))
    config = prepared_config(tmp_path, {"data.separator": "\n---\n", "train.max_steps": 2, **changes})
    train(config, out=tmp_path / "run")
    found = look(tmp_path / "run", "T")
    assert [token.text for token in found.tokens] == ["⟨end⟩", "T"]
    assert found.tokens[1].bits is not None and "validation windows" in found.heads_measured_on
    assert found.repeated is not None and found.repeated.n_tokens == 7


def test_the_best_checkpoint_or_one_that_is_named(folder: Path) -> None:
    checkpoint = sorted((folder / "run/checkpoints").glob("step-*"))[-1]
    assert look(checkpoint, PROMPT).checkpoint == checkpoint.name


def test_files_and_keys_are_those_documented(folder: Path, tmp_path: Path) -> None:
    explain(folder / "run", PROMPT, out=tmp_path)
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    section = page.split("### explain/")[1].split("\n## ")[0]
    assert {path.name for path in tmp_path.iterdir()} == set(re.findall(r"`(\w+\.(?:png|json|html))`", section))
    stored = json.loads((tmp_path / "explain.json").read_text())
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\| (.*)$", section, flags=re.MULTILINE)
    assert set(stored) == {key for keys, _ in rows for key in re.findall(r"\w+", keys)}
    for keys, meaning in rows:
        value = stored[re.findall(r"\w+", keys)[0]]
        while isinstance(value, list) and value:
            value = value[-1]
        if isinstance(value, dict):
            assert set(value) == set(re.findall(r"`(\w+)`", meaning))


# --- what cannot be


@pytest.mark.parametrize(("prompt", "words"), [("", "empty"), ("T", "single token"), ("a\ud800b", "not UTF-8")])
def test_prompts_that_explain_nothing_are_refused(folder: Path, tmp_path: Path, prompt: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        explain(folder / "run", prompt, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(CheckpointError):
        explain(tmp_path / "run", PROMPT)
    assert not (tmp_path / "run/explain").exists()


# --- the command


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    with contextlib.chdir(tmp_path):
        assert main(["explain", "run", "--prompt", PROMPT]) == 0
        shown = capsys.readouterr().out
        assert "run step-" in shown and "strongest induction" in shown and "page: run/explain/explain.html" in shown
        assert (tmp_path / "run/explain/explain.html").exists()
        assert main(["explain", "run", "--prompt", PROMPT, "--out", "there", "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out) == json.loads((tmp_path / "there/explain.json").read_text())
        assert main(["explain", "run", "--prompt", ""]) == 2
        assert "the prompt is empty" in capsys.readouterr().err
        assert main(["explain", "run", "--prompt", PROMPT, "--out", "run/config.toml"]) == 2
        assert "--out run/config.toml: is a file; name a folder" in capsys.readouterr().err
        assert main(["explain", "nowhere", "--prompt", PROMPT]) == 1
        with pytest.raises(SystemExit) as stop:
            main(["explain", "run"])
        assert stop.value.code == 2
