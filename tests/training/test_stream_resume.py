"""Runs on a stream: stopped, crashed and resumed they are the runs that nobody disturbed; validation is never seen."""

import dataclasses
import json
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hub_helpers import made_texts, serve_hub, write_parquet, write_tinystories, write_wikipedia
from run_helpers import TINY, StopAt, exact_rows, final_files, train_until
from smalllm import cli
from smalllm.api import evaluate, prepare, sitting, stream, train
from smalllm.api.foreign import tokenizer_facts
from smalllm.config import RunConfig
from smalllm.data.feed import WindowFeed
from smalllm.data.pieces import split_by_hash
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import ConfigError, DataError
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, read_json
from smalllm.tokenizers import load_tokenizer, save_tokenizer
from smalllm.tokenizers.huggingface import train_huggingface

LAST = 12
TEXTS = made_texts(120, mean_bytes=60)
SMALL: dict[str, Any] = {
    **TINY, "data.hub_name": None, "data.hub_config": None, "data.mode": "stream", "data.shuffle_buffer": 5,
    "data.val_fraction": 0.2, "tokenizer.path": None, "train.max_tokens": None, "optim.warmup_fraction": None,
}  # fmt: skip


def stream_config(folder: Path, **changes: Any) -> RunConfig:
    """A tiny run streamed from Wikipedia's layout in `folder`; 14 steps are more than one epoch."""
    if not (folder / "wikipedia").exists():
        write_wikipedia(folder / "wikipedia", TEXTS, n_files=3)
    here = {"data.hub_name": str(folder / "wikipedia"), "data.hub_config": "20231101.en"}
    place = {"data.path": str(folder / "data")}
    return override(load_recipe("wikipedia-stream"), {**SMALL, **here, **place, **changes})


@dataclasses.dataclass(frozen=True)
class Whole:
    folder: Path
    config: RunConfig
    out: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("stream")
    config = stream_config(folder)
    train_until(LAST, config, folder / "run")
    return Whole(folder, config, folder / "run")


def assert_same_run(out: Path, whole: Whole) -> None:
    assert exact_rows(out) == exact_rows(whole.out)
    assert final_files(out) == final_files(whole.out)


def positions(out: Path) -> dict[str, Any]:
    """Checkpoint -> what it keeps of the stream."""
    paths = sorted(RunDir(out).checkpoints.glob("step-*"))
    return {path.name: read_json(path / "state.json")["facts"]["stream"] for path in paths}


class Crash(BaseException):
    """What `kill -9` is from inside."""


class CrashAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def row(self, row: Mapping[str, Any]) -> None:
        if row["step"] == self.step:
            raise Crash


def test_stopped_and_resumed_is_bit_for_bit_the_same(whole: Whole, tmp_path: Path) -> None:
    for step in (1, 3, 4, 9, LAST):
        train_until(step, whole.config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)
    kept = positions(tmp_path / "run")
    assert list(kept) == list(positions(whole.out)) or kept["step-00000012"] == positions(whole.out)["step-00000012"]
    assert kept["step-00000012"]["n_ranks"] == 1 and kept["step-00000012"]["positions"][0]["token"] >= 0


def test_another_order_is_told_apart(whole: Whole, tmp_path: Path) -> None:
    """The partner: the comparison sees a difference where there is one."""
    train_until(LAST, override(whole.config, {"data.shuffle_buffer": 4}), tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [1, 7])
def test_a_crash_costs_time_only(whole: Whole, tmp_path: Path, step: int) -> None:
    with pytest.raises(Crash):
        train(whole.config, out=tmp_path / "run", progress=CrashAt(step))
    train_until(LAST, whole.config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)
    assert not [thread for thread in threading.enumerate() if thread.name == "smalllm-read"]


@pytest.mark.parametrize("n_workers", [2, 4])
def test_the_number_of_threads_changes_nothing(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_workers: int
) -> None:
    monkeypatch.setattr(sitting.runtime, "n_physical_cores", lambda: n_workers)
    train_until(LAST, whole.config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_the_micro_batch_changes_no_window(whole: Whole, tmp_path: Path) -> None:
    train_until(1, override(whole.config, {"train.micro_batch_size": 8, "model.dropout": 0.0}), tmp_path / "a")
    train_until(1, override(whole.config, {"train.micro_batch_size": 2, "model.dropout": 0.0}), tmp_path / "b")
    one, other = exact_rows(tmp_path / "a")[0], exact_rows(tmp_path / "b")[0]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert positions(tmp_path / "a") == positions(tmp_path / "b")


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every window that training takes, in order."""
    taken: list[list[int]] = []
    take = WindowFeed.take

    def record(feed: WindowFeed, n: int) -> Any:
        rows = take(feed, n)
        taken.extend(rows.tolist())
        return rows

    monkeypatch.setattr(WindowFeed, "take", record)
    return taken


def test_training_never_sees_validation(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = recorded(monkeypatch)
    train_until(LAST, override(whole.config, {"train.tokens_per_step": 1024}), tmp_path / "run")
    tokenizer = load_tokenizer(whole.folder / "data" / "tokenizer")
    tokens = [token for window in taken for token in window[:-1]]
    seen = [tokenizer.decode(part) for part in _documents(tokens, tokenizer.eos_id)]
    held_out = {text for text in TEXTS if split_by_hash(text.encode(), 0.2) == "val"}
    assert set(seen) == set(TEXTS) - held_out and len(held_out) > 10
    first_epoch = seen[: len(TEXTS) - len(held_out)]
    assert sorted(first_epoch) == sorted(set(first_epoch))  # no document twice in an epoch
    manifest = read_manifest(whole.folder / "data")
    val = open_split(whole.folder / "data", manifest, "val")
    ids = val.read(0, val.n_tokens).tolist()
    assert {tokenizer.decode(part) for part in _documents(ids, tokenizer.eos_id)} == held_out


def _documents(tokens: list[int], eos_id: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == eos_id:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts[:-1]


def test_windows_cross_a_stop_without_a_gap(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = recorded(monkeypatch)
    train_until(6, whole.config, tmp_path / "at once")
    at_once = list(taken)
    taken.clear()
    for step in (2, 6):
        train_until(step, whole.config, tmp_path / "in two", resume=True)
    n = whole.config.train.tokens_per_step // whole.config.model.context_length
    assert at_once == taken and len(taken) == 6 * n
    assert all(one[-1] == other[0] for one, other in pairwise(taken))


def test_to_its_end(whole: Whole, tmp_path: Path) -> None:
    progress = StopAt(0)
    result = train(whole.config, out=tmp_path / "run", progress=progress)
    assert result["steps"] == 14 and result["val"]["bits_per_byte"] > 0 and result["unigram"]["bits_per_byte"] < 8
    assert any("s for text" in said and "of training" in said for said in progress.said)
    assert train(whole.config, out=tmp_path / "run", resume=True) == result
    assert evaluate(tmp_path / "run")["results"]["loss"]["bits_per_byte"] == pytest.approx(
        result["val"]["bits_per_byte"]
    )


def test_a_longer_run_goes_on_where_the_stream_was(whole: Whole, tmp_path: Path) -> None:
    short = override(whole.config, {"train.max_steps": 8, "optim.schedule": "constant"})
    train(short, out=tmp_path / "run")
    train(short, out=tmp_path / "run", resume=True, changes={"train.max_steps": LAST})
    train_until(LAST, override(short, {"train.max_steps": 14}), tmp_path / "at once")
    assert final_files(tmp_path / "run") == final_files(tmp_path / "at once")


def test_minutes_take_nothing_from_the_stream(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = recorded(monkeypatch)
    train_until(2, override(whole.config, {"train.max_steps": None, "train.max_minutes": 5.0}), tmp_path / "run")
    n = whole.config.train.tokens_per_step // whole.config.model.context_length
    assert len(taken) == 2 * n


def test_text_that_changed_is_refused(tmp_path: Path) -> None:
    config = stream_config(tmp_path)
    train_until(3, config, tmp_path / "run")
    changed = tmp_path / "wikipedia" / "20231101.en" / "train-00002-of-00003.parquet"
    before = changed.read_bytes()
    write_parquet(changed, {"text": TEXTS[:7]})
    with pytest.raises(DataError, match="the text to stream has changed since its data directory was prepared"):
        train(config, out=tmp_path / "run", resume=True)
    changed.write_bytes(before)
    train_until(4, config, tmp_path / "run", resume=True)


def test_from_the_hub_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run does not get to is not downloaded; what it had is not asked for again on a resume."""
    texts = made_texts(600, mean_bytes=60)
    mirror = write_wikipedia(tmp_path / "wikipedia", texts, n_files=20)
    monkeypatch.setattr(stream, "HEAD_BYTES", 500)
    monkeypatch.setattr(stream, "VAL_BYTES", 200)
    there = stream_config(tmp_path, **{"data.hub_name": "wikimedia/wikipedia", "train.tokens_per_step": 32})
    there = override(there, {"train.micro_batch_size": 2, "data.shuffle_buffer": 30})
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["wikimedia/wikipedia"] = mirror
        train_until(6, there, tmp_path / "run")
        asked = {r.rsplit("/", 1)[1] for r in hub.requests if r.startswith("GET /datasets") and ".parquet" in r}
        assert 2 <= len(asked) <= 12
        hub.requests.clear()
        train_until(8, there, tmp_path / "run", resume=True)
    here = override(there, {"data.hub_name": str(mirror), "data.path": str(tmp_path / "other")})
    train_until(8, here, tmp_path / "here")
    assert final_files(tmp_path / "run") == final_files(tmp_path / "here")


def test_a_set_with_a_validation_split(tmp_path: Path) -> None:
    val = made_texts(12, seed=5)
    write_tinystories(tmp_path / "TinyStories", TEXTS, val)
    named = {"data.hub_name": str(tmp_path / "TinyStories"), "data.hub_config": None, "data.val_split": "validation"}
    config = stream_config(tmp_path, **named)
    manifest = prepare(config)
    assert (manifest.splits["train"].documents, manifest.splits["val"].documents) == (len(TEXTS), len(val))
    train_until(3, config, tmp_path / "run")


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_a_tokenizer_trained_on_the_head(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEAD_BYTES", 4_000)
    config = stream_config(tmp_path, **{"tokenizer.kind": kind, "tokenizer.vocab_size": 300})
    manifest = prepare(config)
    assert 4_000 <= manifest.splits["train"].text_bytes < 4_000 + 200
    train_until(3, config, tmp_path / "run")


def test_a_tokenizer_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(train_huggingface(TEXTS, vocab_size=300), tmp_path / "gpt")
    config = stream_config(tmp_path, **{"tokenizer.kind": "huggingface", "tokenizer.path": "someone/gpt"})
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["someone/gpt"] = tmp_path / "gpt"
        manifest = prepare(config)
        with pytest.raises(DataError, match=r"the Hugging Face Hub has no someone/got, or it is private"):
            prepare(override(config, {"tokenizer.path": "someone/got", "data.path": str(tmp_path / "other")}))
    assert manifest.tokenizer == tokenizer_facts(load_tokenizer(tmp_path / "gpt"))
    train_until(2, config, tmp_path / "run")


def test_local_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:60]))
    Path("b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[60:]))
    config = stream_config(tmp_path, **{"data.files": ("*.jsonl",), "data.hub_name": None})
    train_until(3, config, tmp_path / "run")
    held_out = override(config, {"data.val_files": ("b.jsonl",), "data.path": "held out"})
    assert [file["name"] for file in prepare(held_out).source["files"]] == ["a.jsonl"]
    with pytest.raises(DataError, match=r"has changed .*text_column is null, asked for \"title\""):
        train_until(4, override(config, {"data.text_column": "title"}), Path("another run"))
    Path("one.txt").write_text("\n".join(TEXTS))
    with pytest.raises(DataError, match=r"one\.txt is one text without documents to put in order; .*--data\.separator"):
        train(override(config, {"data.files": ("one.txt",), "data.path": "other"}), out=Path("other run"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.max_epochs": 2.0}, r"train\.max_epochs = 2\.0: the length of a streamed text is not known"),
        ({"data.source": "stories"}, r'streams files and data sets of the Hub, not source = "stories"'),
        ({"data.shuffle_buffer": 0}, r"data\.shuffle_buffer = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_streamed(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(stream_config(tmp_path, **changes), out=tmp_path / "run")


def test_a_stream_cannot_become_shards_on_a_resume(whole: Whole, tmp_path: Path) -> None:
    train_until(1, whole.config, tmp_path)
    with pytest.raises(ConfigError, match=r"data\.mode = 'shards': .* was started with 'stream'"):
        train(whole.config, out=tmp_path, resume=True, changes={"data.mode": "shards"})


def test_shards_are_not_taken_for_a_stream(whole: Whole, tmp_path: Path) -> None:
    shards = override(whole.config, {"data.mode": "shards", "data.path": str(tmp_path / "data")})
    prepare(shards)
    with pytest.raises(DataError, match=r"mode is null, asked for \"stream\""):
        train(override(shards, {"data.mode": "stream"}), out=tmp_path / "run")
    with pytest.raises(DataError, match=r"was prepared for data\.mode = stream"):
        train(override(whole.config, {"data.mode": "shards"}), out=tmp_path / "run")


def test_prepare_and_train_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wikipedia(tmp_path / "wikipedia", TEXTS, n_files=3)
    options = ["--data.hub_name", "wikipedia", "--tokenizer.kind", "bytes", "--data.val_fraction", "0.2"]
    # The recipe names a tokenizer on the Hub; another one is given in its place.
    assert cli.main(["prepare", "wikipedia-stream", *options]) == 1
    assert "leave --tokenizer.path out" in capsys.readouterr().err
