"""Every kind of source, from the command line to the text that can be read back from the shards."""

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from run_helpers import make_text, tree
from smalllm import cli
from smalllm.api import load_recipe, override, prepare
from smalllm.api.data import data_path, open_source
from smalllm.data.manifest import read_manifest
from smalllm.data.shards import open_split
from smalllm.data.stories import is_valid, parse
from smalllm.errors import ConfigError
from smalllm.tokenizers import load_tokenizer

TEXTS = [f"Story {i}.\nÉa {'x' * i} – 猫" for i in range(60)]
BYTES = ["--tokenizer.kind", "bytes", "--data.val_fraction", "0.2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def prepared(capsys: pytest.CaptureFixture[str], *options: str, recipe: str = "shakespeare") -> dict[str, Any]:
    """Run the command with --json; the path and the splits."""
    assert cli.main(["prepare", recipe, "--out", "out", "--json", *options]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["path"] == "out" and set(found["splits"]) == {"train", "val"}
    return found


def documents(split: str, directory: str = "out") -> list[str]:
    """The texts of a split, decoded from its shards."""
    manifest = read_manifest(Path(directory))
    tokenizer = load_tokenizer(Path(directory) / "tokenizer")
    stream = open_split(Path(directory), manifest, split)
    ids = stream.read(0, stream.n_tokens)
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
    assert len(parts[-1]) == 0
    return [tokenizer.decode(part.tolist()) for part in parts[:-1]]


def assert_all_there(expected: list[str]) -> None:
    train, val = documents("train"), documents("val")
    assert sorted(train + val) == sorted(expected) and train and val
    assert not set(train) & set(val)
    assert train != expected  # the partner: a document that is held out is missing here


def test_one_text_is_cut_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = make_text()
    Path("text.txt").write_text(text)
    prepared(capsys, "--data.files", "text.txt", *BYTES)
    (train,), (val,) = documents("train"), documents("val")
    assert train + val == text
    assert train.endswith("\n") and len(val) == pytest.approx(0.2 * len(text), abs=100)


def test_a_text_with_a_separator(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    prepared(capsys, "--data.files", "text.txt", "--data.separator", "<|endoftext|>", *BYTES)
    assert_all_there(TEXTS)
    assert read_manifest(Path("out")).source["separator"] == "<|endoftext|>"


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text("".join(json.dumps({"body": text, "id": 1}) + "\n" for text in TEXTS))
    prepared(capsys, "--data.files", "a.jsonl", "--data.text_column", "body", *BYTES)
    assert_all_there(TEXTS)


def test_parquet(capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(60)), "text": TEXTS}), "a.parquet")
    prepared(capsys, "--data.files", "a.parquet", *BYTES)
    assert_all_there(TEXTS)


def test_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(TEXTS):
        path = Path("folder", str(number % 3), f"{number}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    Path("folder", ".hidden.txt").write_text("not this")
    prepared(capsys, "--data.files", "folder", *BYTES)
    assert_all_there(TEXTS)


@pytest.mark.parametrize("quoted", [True, False], ids=["by smalllm", "by the shell"])
def test_a_glob(capsys: pytest.CaptureFixture[str], quoted: bool) -> None:
    for number, text in enumerate(TEXTS):
        Path(f"{number:02}.story").write_text(text)
    Path("other.txt").write_text("not this")
    files = ["*.story"] if quoted else sorted(map(str, Path().glob("*.story")))
    prepared(capsys, "--data.files", *files, *BYTES)
    assert_all_there(TEXTS)


def test_several_names_and_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("\n\n".join(TEXTS[:20]))
    Path("b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[20:40]))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS[40:]}), "c.parquet")
    prepared(capsys, "--data.files", "a.txt", "b.jsonl", "c.parquet", "--data.separator", "\n\n", *BYTES)
    assert_all_there(TEXTS)


def test_files_of_their_own_for_validation(capsys: pytest.CaptureFixture[str]) -> None:
    for name, texts in {"train.txt": TEXTS[:40], "val.txt": TEXTS[40:]}.items():
        Path(name).write_text("<>".join(texts))
    prepared(capsys, "--data.files", "train.txt", "--data.val_files", "val.txt", "--data.separator", "<>", *BYTES)
    assert documents("train") == TEXTS[:40] and documents("val") == TEXTS[40:]


@pytest.mark.parametrize("files", ["corpus", "corpus/*.txt"])
@pytest.mark.parametrize("val", ["corpus/val.txt", "link.txt"])
@pytest.mark.parametrize("separator", [["--data.separator", "<>"], []], ids=["documents", "texts"])
def test_what_is_held_out_is_not_trained_on(
    capsys: pytest.CaptureFixture[str], files: str, val: str, separator: list[str]
) -> None:
    Path("corpus").mkdir()
    Path("link.txt").symlink_to("corpus/val.txt")
    for name, texts in {"a": TEXTS[:20], "b": TEXTS[20:40], "val": TEXTS[40:]}.items():
        Path(f"corpus/{name}.txt").write_text("<>".join(texts))
    options = ["--data.files", files, "--data.val_files", val, *separator, *BYTES]
    prepared(capsys, *options)
    if separator:
        assert documents("train") == TEXTS[:40] and documents("val") == TEXTS[40:]
    else:
        assert documents("val") == ["<>".join(TEXTS[40:])] and len(documents("train")) == 2
    assert [file["name"] for file in read_manifest(Path("out")).source["files"]] == ["a.txt", "b.txt"]
    Path("corpus/a.txt").unlink(), Path("corpus/b.txt").unlink()
    assert cli.main(["prepare", "shakespeare", "--out", "none", *options]) == 1
    assert "so none is left to train on" in capsys.readouterr().err and not Path("none").exists()


@pytest.mark.parametrize("recipe", ["stories", "python"])
def test_a_source_that_reads_no_files_takes_none_to_validate(recipe: str) -> None:
    Path("val.txt").write_text("not this")
    with pytest.raises(ConfigError, match=rf'data\.val_files = .* source = "{recipe}"'):
        prepare(override(load_recipe(recipe), {"data.val_files": ("val.txt",)}), out=Path("out"))


def test_another_column_is_another_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text("".join(json.dumps({"title": str(i), "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    prepared(capsys, "--data.files", "a.jsonl", *BYTES)
    assert "text_column" not in read_manifest(Path("out")).source  # as older versions wrote it
    prepared(capsys, "--data.files", "a.jsonl", "--data.text_column", "text", *BYTES)
    with pytest.raises(AssertionError, match=r'holds other data.* source\.text_column is null, asked for "title"'):
        prepared(capsys, "--data.files", "a.jsonl", "--data.text_column", "title", *BYTES)


def test_one_text_and_one_to_validate(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in {"train.txt": 1, "val.txt": 2}.items():
        Path(name).write_text(make_text(2000, seed=seed))
    prepared(capsys, "--data.files", "train.txt", "--data.val_files", "val.txt", *BYTES)
    assert documents("train") == [make_text(2000, seed=1)] and documents("val") == [make_text(2000, seed=2)]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and the requests it got."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            requests.append(str(args[0]))

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


def test_a_url(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "text.txt").write_text(make_text())
    with served(tmp_path / "web") as (address, requests):
        options = ["--data.url", f"{address}/text.txt", "--data.sha256", "None", *BYTES]
        prepared(capsys, *options)
        before = tree(Path("out"))
        prepared(capsys, *options)  # the second time from the cache
        assert len(requests) == 1 and tree(Path("out")) == before
    assert "".join(documents("train") + documents("val")) == make_text()
    assert read_manifest(Path("out")).source["url"] == f"{address}/text.txt"


def test_a_url_with_another_content_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe's own sha256 guards its address."""
    Path("text.txt").write_text(make_text())
    url = Path("text.txt").absolute().as_uri()
    assert cli.main(["prepare", "shakespeare", "--data.url", url, *BYTES]) == 1
    said = capsys.readouterr().err
    assert "has the sha256" in said and "expected 86c4e6aa" in said and not Path("data").exists()


def test_stories_of_another_grammar_are_not_taken_for_todays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--data.stories", "300", *BYTES, "--tokenizer.vocab_size", "None")
    prepared(capsys, *options, recipe="stories")
    prepared(capsys, *options, recipe="stories")  # the same is taken as it is
    monkeypatch.setattr("smalllm.api.data.fingerprint", lambda: "another")
    with pytest.raises(AssertionError, match="holds other data"):
        prepared(capsys, *options, recipe="stories")


def test_stories(capsys: pytest.CaptureFixture[str]) -> None:
    prepared(capsys, "--data.stories", "300", *BYTES, "--tokenizer.vocab_size", "None", recipe="stories")
    told = documents("train") + documents("val")
    assert len(told) == 300 and all(map(is_valid, told))
    manifest = read_manifest(Path("out"))
    assert manifest.source["kind"] == "stories" and manifest.floor is not None
    assert manifest.floor.nats == pytest.approx(-sum(parse(text).log_prob for text in documents("val")), rel=1e-9)
    assert manifest.floor.text_bytes == sum(len(text.encode()) for text in documents("val"))
    assert not is_valid(told[0] + " And so it was.")


def test_the_python_library() -> None:
    documents, facts = open_source(override(load_recipe("python"), {}).data)
    first = list(islice(documents(), 3))
    assert facts["kind"] == "python" and all(d.origin.startswith("python/") and d.text for d in first)
    assert [d.text for d in islice(documents(), 3)] == [d.text for d in first]  # again from the first one


def test_a_hub_out_of_reach_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["prepare", "wikipedia"]) == 1
    said = capsys.readouterr().err
    assert "holds nothing of wikimedia/wikipedia" in said and "--data.hub_name FOLDER" in said and "HF_HOME" in said
    assert not Path("data").exists()
    with pytest.raises(ConfigError, match=r"data\.files is empty"):
        open_source(override(load_recipe("shakespeare"), {"data.source": "files"}).data)


def test_a_tokenizer_is_trained_on_training_text_only(capsys: pytest.CaptureFixture[str]) -> None:
    train = "\n\n".join([f"aaa bbb {i}" for i in range(300)])
    Path("train.txt").write_text(train)
    Path("val.txt").write_text("\n\n".join(["zzqq zzqq"] * 50))
    spm = ["--tokenizer.kind", "sentencepiece", "--tokenizer.vocab_size", "275"]
    files = ["--data.files", "train.txt", "--data.val_files", "val.txt", "--data.separator", "\n\n"]
    prepared(capsys, *files, *spm)
    tokenizer = load_tokenizer(Path("out/tokenizer"))
    assert max(map(len, map(bytes, tokenizer.token_bytes))) >= 3
    assert not any(b"zz" in bytes(token) or b"qq" in bytes(token) for token in tokenizer.token_bytes)
    assert any(b"bb" in bytes(token) for token in tokenizer.token_bytes)
    assert documents("val") == ["zzqq zzqq"] * 50


def test_preparing_again_changes_nothing_and_other_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(make_text())
    options = ["--data.files", "text.txt", *BYTES]
    prepared(capsys, *options)
    before = tree(Path("out"))
    prepared(capsys, *options)
    assert tree(Path("out")) == before
    Path("text.txt").write_text(make_text(30_000))
    assert cli.main(["prepare", "shakespeare", "--out", "out", *options]) == 1
    said = capsys.readouterr().err
    assert "out" in said and "bytes" in said and tree(Path("out")) == before


def test_two_machines_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name / "corpus"
        folder.mkdir(parents=True)
        (folder / "text.txt").write_text(make_text())
        config = override(
            load_recipe("shakespeare"),
            {"data.files": (str(folder),), "tokenizer.kind": "bytes", "data.val_fraction": 0.2},
        )
        prepare(config, out=tmp_path / name / "data")
    assert tree(tmp_path / "one" / "data") == tree(tmp_path / "two" / "data")
    assert str(tmp_path) not in (tmp_path / "one" / "data" / "manifest.json").read_text()


def test_the_default_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(make_text())
    assert cli.main(["prepare", "shakespeare", "--data.files", "text.txt"]) == 0
    out = capsys.readouterr().out
    assert (
        "next: smalllm train shakespeare --data.files text.txt --data.path data/shakespeare" in out
        and "bytes tokenizer, 257 ids" in out
    )
    assert data_path(load_recipe("shakespeare")) == Path("data/shakespeare") and documents("train", "data/shakespeare")
