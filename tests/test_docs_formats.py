"""The README's Python example runs, and what it writes has the files and keys that docs/formats.md describes."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from foreign_helpers import write_shards
from run_helpers import make_text
from smalllm.api import data as api_data
from smalllm.api import evaluate
from smalllm.api.inspect import inspect_data
from smalllm.config import TokenizerConfig
from smalllm.recipes import load_recipe
from smalllm.rundir import read_jsonl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
STORIES_ONLY = {"floor", "generated"}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's Python example has run, made smaller by a longer list of changes."""
    found = re.search(r"^## In Python\n+```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert found and len(found[1].splitlines()) <= 11
    given, small = '"train.max_steps": 500', {
        "train.max_steps": 4, "train.tokens_per_step": 64, "train.log_every": 2, "train.threads": 1,
        "train.device": "cpu", "model.n_layers": 1, "model.n_heads": 2, "model.d_model": 32, "model.context_length": 16,
        "eval.every": 2, "eval.tokens": 64, "eval.final_tokens": 128,
    }  # fmt: skip
    assert found[1].count(given) == 1
    folder = tmp_path_factory.mktemp("readme")
    (folder / "book.txt").write_text(make_text(4_000), encoding="utf-8")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(found[1].replace(given, str(small)[1:-1]), {})
    assert "bits per byte on text it has not seen" in said.getvalue()
    return folder


def documented_keys(title: str) -> set[str]:
    """The first column of the table in formats.md whose head begins with `title`."""
    table = FORMATS.split(f"| {title} |")[1].split("\n\n")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", table, flags=re.MULTILINE))


@pytest.mark.parametrize("split", ["train", "val"])
def test_metrics_keys_are_those_documented(example: Path, split: str) -> None:
    rows = [row for row in read_jsonl(example / "runs/book/metrics.jsonl") if row["split"] == split]
    assert rows
    for row in rows:
        assert set(row) == documented_keys(f"key in {split} rows")


def test_result_keys_are_those_documented(example: Path) -> None:
    result = json.loads((example / "runs/book/result.json").read_text())
    assert set(result) == documented_keys("key in result.json") - STORIES_ONLY
    with contextlib.chdir(example):
        measured = evaluate(Path("runs/book"))
    assert set(measured) == {"run", "checkpoint", "results"}
    assert set(measured["results"]["loss"]) == documented_keys("key in results.loss") - STORIES_ONLY


def test_state_keys_are_those_documented(example: Path) -> None:
    checkpoints = example / "runs/book/checkpoints"
    state = json.loads((checkpoints / "step-00000004/state.json").read_text())
    assert {f"{part}.{key}" for part in state for key in state[part]} == documented_keys("key in state.json")


def test_environment_keys_are_those_documented(example: Path) -> None:
    environment = json.loads((example / "runs/book/environment.json").read_text())
    table = FORMATS.split("### environment.json")[1].split("###")[0]
    assert set(environment) == set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))


def test_manifest_keys_are_those_documented(example: Path) -> None:
    manifest = json.loads((example / "data/book/manifest.json").read_text())
    documented = FORMATS.split("### manifest.json")[1].split("\n## ")[0]
    for key in [*manifest, *manifest["tokenizer"], *manifest["splits"]["val"], *manifest["source"]]:
        assert f"`{key}`" in documented, key
    for key in manifest["splits"]["val"]["files"][0]:
        assert f"`{key}`" in documented, key


def test_files_of_a_run_and_of_data_are_those_documented(example: Path) -> None:
    for folder, title in (("runs/book", "## Run directory"), ("data/book", "## Data directory")):
        block = FORMATS.split(title)[1].split("```")[1]
        documented = set(re.findall(r"^(\S+)", block, flags=re.MULTILINE))
        found = {path.name + ("/" if path.is_dir() else "") for path in (example / folder).iterdir()}
        assert found <= documented
    plots = {path.name for path in (example / "runs/book/plots").iterdir()}
    assert plots == set(re.findall(r"\w+\.png", FORMATS.split("plots/ ")[1].splitlines()[0]))


def test_inspect_keys_are_those_documented(example: Path, tmp_path: Path) -> None:
    folder = write_shards(tmp_path, "npy", train=[1, 2, 256], test=[1])
    ours, theirs = inspect_data(example / "data/book"), inspect_data(folder, tokenizer=TokenizerConfig(kind="bytes"))
    assert {*ours, *theirs} == documented_keys("key in inspect") - STORIES_ONLY
    for split in (ours["splits"]["train"], theirs["splits"]["train"]):
        assert set(split) == documented_keys("key in inspect.splits")
        assert set(split["sample"]) == documented_keys("key in inspect.splits.sample")
        described = FORMATS.split("| key in inspect.splits.sample |")[1]
        parts = (split["sample"]["document_tokens"], split["sample"]["top_tokens"][0], split["sample"]["windows"][0])
        assert [key for part in parts for key in part if f"`{key}`" not in described] == []


def test_a_key_that_is_not_documented_is_missed() -> None:
    assert "loss_ema" in documented_keys("key in train rows")
    assert "loss_ema" not in documented_keys("key in val rows")
    with pytest.raises(IndexError):
        documented_keys("key in no rows")


def test_the_sources_of_a_manifest_are_documented() -> None:
    facts = [api_data.open_source(load_recipe(name).data)[1] for name in ("stories", "python")]
    for key in {key for fact in facts for key in fact}:
        assert f"`{key}`" in FORMATS
