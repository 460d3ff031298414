"""Recipes whose data is on the Hub: prepared from a mirror of it, trained for some steps, stopped and resumed."""

import csv
import gc
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from hub_helpers import (
    EOT,
    made_texts,
    real_data,
    serve_hub,
    write_fineweb_edu,
    write_parquet,
    write_text,
    write_tinystories,
    write_wikipedia,
)
from run_helpers import TINY, exact_rows, final_files, train_until
from smalllm import cli
from smalllm.api import prepare, train
from smalllm.config import RunConfig
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import DataError
from smalllm.recipes import load_recipe, override
from smalllm.tokenizers import load_tokenizer

RECIPES = (
    "tinystories", "tinystories-modern", "llama-tiny", "wikipedia", "wikipedia-modern", "wikipedia-stream",
    "wikipedia-stream-medium", "fineweb-edu", "gpt2-124m",
)  # fmt: skip
SMALL: dict[str, Any] = {
    **TINY, "model.context_length": 32, "model.d_ff": 64, "train.max_epochs": None, "train.max_tokens": None,
    "train.tokens_per_step": 256,
    "train.max_steps": 8, "optim.warmup_steps": 2, "optim.warmup_fraction": None, "data.val_fraction": 0.1,
    "train.patience": 0, "data.shuffle_buffer": 4,
}  # fmt: skip


def parquet_texts(folder: Path) -> list[str]:
    return [
        t for path in sorted(folder.glob("*.parquet")) for t in pyarrow.parquet.read_table(path)["text"].to_pylist()
    ]


def real_mirror(recipe: str, folder: Path) -> Path:
    """The recipe's data set, from real texts."""
    data = real_data()
    if recipe.startswith("wikipedia"):
        return write_wikipedia(folder, parquet_texts(data / "wikipedia")[: 60 if "stream" in recipe else 300])
    if recipe.startswith(("tinystories", "llama-tiny")):
        stories = [
            s.strip() for s in (data / "tinystories" / "tinystories_10k.txt").read_text().split(EOT) if s.strip()
        ]
        return write_tinystories(folder, stories[:1200], stories[1200:1300])
    return write_fineweb_edu(folder, parquet_texts(data / "fineweb")[:200])


def made_mirror(recipe: str, folder: Path) -> Path:
    if recipe.startswith("wikipedia"):
        return write_wikipedia(folder, made_texts(80))
    if recipe.startswith(("tinystories", "llama-tiny")):
        return write_tinystories(folder, made_texts(80), made_texts(10, seed=1))
    return write_fineweb_edu(folder, made_texts(80))


def reduced(recipe: str, mirror: Path, **changes: Any) -> RunConfig:
    small = {key: value for key, value in SMALL.items() if key != "tokenizer.kind"}
    here = {"data.hub_name": str(mirror), "data.path": str(mirror.parent / "data")}
    return override(load_recipe(recipe), {**small, **here, **changes})


def tokenizer_of(recipe: str, *, real: bool) -> dict[str, Any]:
    if recipe.startswith(("tinystories", "llama-tiny")):
        return {"tokenizer.vocab_size": 1000 if real else 300}
    if not real:
        return {"tokenizer.kind": "bytes", "tokenizer.path": None}
    return {"tokenizer.path": str(real_data() / "gpt2_vocab")}


def check_run(config: RunConfig, out: Path) -> None:
    """Train at once, and stopped and resumed: the same weights; both below the loss they start with."""
    train_until(7, config, out / "whole")
    for step in (2, 5, 7):
        train_until(step, config, out / "resumed", resume=True)
    assert final_files(out / "whole") == final_files(out / "resumed")
    assert exact_rows(out / "whole") == exact_rows(out / "resumed")


def texts(directory: Path, split: str) -> list[str]:
    """The documents of a split, decoded."""
    manifest, tokenizer = read_manifest(directory), load_tokenizer(directory / "tokenizer")
    stream = open_split(directory, manifest, split)
    found, ids = [], []
    for i in stream.read(0, stream.n_tokens).tolist():
        if i == tokenizer.eos_id:
            found.append(tokenizer.decode(ids))
            ids = []
        else:
            ids.append(i)
    return found


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("make", [made_mirror, real_mirror], ids=["made", "real"])
def test_a_recipe_from_a_mirror(recipe: str, make: Callable[[str, Path], Path], tmp_path: Path) -> None:
    mirror = make(recipe, tmp_path / recipe)
    config = reduced(recipe, mirror, **tokenizer_of(recipe, real=make is real_mirror))
    manifest = prepare(config)
    assert manifest.source["kind"] == "hub" and manifest.source["name"] == recipe
    assert str(tmp_path) not in (tmp_path / "data" / "manifest.json").read_text()
    check_run(config, tmp_path)


def test_tinystories_validates_on_its_own_split(tmp_path: Path) -> None:
    train_texts, val_texts = made_texts(40), made_texts(7, seed=1)
    mirror = write_tinystories(tmp_path / "TinyStories", train_texts, val_texts)
    prepare(reduced("tinystories", mirror, **{"tokenizer.kind": "bytes", "tokenizer.vocab_size": None}))
    assert texts(tmp_path / "data", "train") == train_texts and texts(tmp_path / "data", "val") == val_texts


@pytest.mark.parametrize(
    ("files", "val_files", "column", "prefix"),
    [
        ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt", "text", "V2 "),
        ("TinyStories-train.txt", "TinyStories-valid.txt", "text", ""),
        ("TinyStories_all_data.tar.gz", None, "story", ""),
    ],
)
def test_tinystories_by_file(tmp_path: Path, files: str, val_files: str | None, column: str, prefix: str) -> None:
    train_texts, val_texts = [t.strip() for t in made_texts(60)], [t.strip() for t in made_texts(7, seed=1)]
    mirror = write_tinystories(tmp_path / "TinyStories", train_texts, val_texts)
    chosen = {"data.hub_files": (files,), "data.hub_val_files": (val_files,) if val_files else ()}
    bytes_only = {"tokenizer.kind": "bytes", "tokenizer.vocab_size": None, "data.text_column": column}
    prepare(reduced("tinystories", mirror, **chosen, **bytes_only))
    found = {split: texts(tmp_path / "data", split) for split in ("train", "val")}
    if val_files:
        assert found == {"train": [prefix + t for t in train_texts], "val": [prefix + t for t in val_texts]}
    else:
        assert sorted(found["train"] + found["val"]) == sorted(train_texts + val_texts) and found["val"]


def test_wikipedia_by_number_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    articles = made_texts(50)
    mirror = write_wikipedia(tmp_path / "wikipedia", articles)
    config = reduced("wikipedia", mirror, **{"tokenizer.kind": "bytes", "data.shards": 2})
    manifest = prepare(config)
    assert [f["name"] for f in manifest.source["files"]] == [
        f"20231101.en/train-0000{i}-of-00005.parquet" for i in (0, 1)
    ]
    found = texts(tmp_path / "data", "train") + texts(tmp_path / "data", "val")
    assert sorted(found) == sorted(articles[:20])
    with pytest.raises(DataError, match="holds other data, already prepared"):
        prepare(override(config, {"data.shards": 3}))


def test_validation_files_apart(tmp_path: Path) -> None:
    documents = made_texts(40)
    mirror = write_fineweb_edu(tmp_path / "fineweb-edu", documents)
    config = reduced("fineweb-edu", mirror, **{"tokenizer.kind": "bytes"})
    prepare(override(config, {"data.hub_val_files": ("sample/10BT/003_*",)}))
    assert texts(tmp_path / "data", "train") == documents[:30] and texts(tmp_path / "data", "val") == documents[30:]


def test_the_hub_and_its_mirror_give_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = write_wikipedia(tmp_path / "wikipedia", made_texts(50))
    config = reduced("wikipedia", mirror, **{"tokenizer.kind": "bytes"})
    here = prepare(config)
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["wikimedia/wikipedia"] = mirror
        there = prepare(override(config, {"data.hub_name": "wikimedia/wikipedia"}), out=tmp_path / "there")
        assert not any("20231101.de/" in request for request in hub.requests)  # only what is needed
    assert here.splits == there.splits
    assert {**here.source, "name": ""} == {**there.source, "name": ""}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = prepare(override(config, {"data.hub_name": "wikimedia/wikipedia"}), out=tmp_path / "offline")
    assert offline == there


def test_an_interrupted_download_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = write_wikipedia(tmp_path / "wikipedia", made_texts(50))
    config = reduced("wikipedia", mirror, **{"tokenizer.kind": "bytes", "data.hub_name": "wikimedia/wikipedia"})
    second = "train-00001-of-00005.parquet"
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["wikimedia/wikipedia"] = mirror
        hub.failures[f"en/{second}"] = [403] * 99
        with pytest.raises(DataError, match=f"refused 20231101.en/{second}"):
            prepare(config)
        hub.failures.clear()
        hub.requests.clear()
        prepare(config)
    asked = [request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("GET /datasets")]
    assert asked == [f"train-0000{i}-of-00005.parquet" for i in (1, 2, 3, 4)]


def write_csv(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(rows)])


def test_forms_that_only_the_library_reads(tmp_path: Path) -> None:
    train_texts, val_texts = made_texts(30), made_texts(5, seed=1)
    write_csv(tmp_path / "set" / "train.csv", train_texts)
    write_csv(tmp_path / "set" / "validation.csv", val_texts)
    fields = {"tokenizer.kind": "bytes", "data.hub_config": None, "data.val_split": "validation", "data.shards": None}
    config = reduced("wikipedia", tmp_path / "set", **fields)
    assert prepare(config).source["reader"] == "datasets"
    assert texts(tmp_path / "data", "train") == train_texts and texts(tmp_path / "data", "val") == val_texts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves a file open that is not read to its end
        with pytest.raises(DataError, match=r"no column 'body'; it has: id, text\. Set data\.text_column"):
            prepare(override(config, {"data.text_column": "body"}), out=tmp_path / "other")
        gc.collect()


def test_both_readers_agree(tmp_path: Path) -> None:
    mirror = write_wikipedia(tmp_path / "wikipedia", made_texts(50))
    config = reduced("wikipedia", mirror, **{"tokenizer.kind": "bytes"})
    ours = prepare(config)
    theirs = prepare(override(config, {"data.hub_reader": "datasets"}), out=tmp_path / "theirs")
    assert ours.splits == theirs.splits and ours.source != theirs.source


def test_the_card_says_which_files(tmp_path: Path) -> None:
    card = {
        "configs": [
            {"config_name": "x", "data_files": [{"split": "dev", "path": "b*"}, {"split": "train", "path": "a*"}]}
        ]
    }
    write_text(tmp_path / "set" / "README.md", f"---\n{json.dumps(card)}\n---\n")
    for name, seed in {"a1": 1, "a2": 2, "b1": 3}.items():
        write_parquet(tmp_path / "set" / f"{name}.parquet", {"body": made_texts(10, seed=seed)})
    fields = {"data.hub_config": "x", "data.val_split": "validation", "data.text_column": "body", "data.shards": None}
    prepare(reduced("wikipedia", tmp_path / "set", **{"tokenizer.kind": "bytes"}, **fields))
    assert texts(tmp_path / "data", "train") == made_texts(10, seed=1) + made_texts(10, seed=2)
    assert texts(tmp_path / "data", "val") == made_texts(10, seed=3)
    (tmp_path / "set" / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(DataError, match=r"the YAML at the top of its README\.md cannot be read"):
        prepare(reduced("wikipedia", tmp_path / "set", **{"tokenizer.kind": "bytes"}, **fields))


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wikipedia(tmp_path / "wikipedia", made_texts(50))
    command = ["prepare", "wikipedia", "--data.hub_name", "wikipedia", "--tokenizer.kind", "bytes"]
    assert cli.main([*command, "--data.hub_config", "20231101.fr"]) == 1
    assert "it has: 20231101.de, 20231101.en" in capsys.readouterr().err
    assert cli.main([*command, "--data.text_column", "txt", "--out", "other"]) == 1
    assert "has no column 'txt', only 'id', 'url', 'title', 'text'" in capsys.readouterr().err
    assert cli.main([*command, "--data.val_files", "x"]) == 2
    assert "name data.hub_val_files" in capsys.readouterr().err
    assert cli.main([*command, "--data.val_fraction", "0.2"]) == 0
    assert "data.shards = 9: wikipedia has 5 files here; using these" in capsys.readouterr().err


def test_unprepared_data_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no prepared data here; prepare it first:\n  smalllm prepare wikipedia"):
        train(override(load_recipe("wikipedia"), {"train.device": "cpu"}))


@pytest.mark.parametrize("recipe", ["wikipedia", "tinystories"])
def test_a_trial_downloads_no_more_than_it_reads(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mirror = made_mirror(recipe, tmp_path / "mirror")
    name = load_recipe(recipe).data.hub_name
    assert name is not None
    words = ["prepare", recipe, "--tokenizer.kind", "bytes", "--tokenizer.vocab_size", "None", "--json"]
    words += ["--data.val_fraction", "0.2"]
    tried: dict[int, Any] = {}
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets[name] = mirror
        for n, n_files in ((10, 1), (10_000, 5)):
            assert cli.main([*words, "--dry-run", str(n)]) == 0
            tried[n] = json.loads(capsys.readouterr().out)
            fetched = {r for r in hub.requests if r.startswith("GET /datasets") and r.endswith(".parquet")}
            assert len(fetched) == n_files
        assert cli.main([*words, "--out", "out"]) == 0
    assert tried[10]["summary"]["documents"] == 10 and 0 < tried[10]["share"] < 0.3
    assert tried[10_000]["share"] == 1 and tried[10_000]["summary"] == json.loads(capsys.readouterr().out)["summary"]
