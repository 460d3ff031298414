"""A task of a datatrove pipeline writes a part: the documents it got, and nothing of an earlier attempt."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from cluster_helpers import (
    SHARD_TOKENS,
    VAL_FRACTION,
    Trove,
    bytes_tokenizer,
    documents_of,
    file_texts,
    write_all,
    write_files,
    writer,
)
from data_helpers import texts_of

from run_helpers import TINY, exact_rows, train_until, tree
from smalllm import load_recipe, merge_parts, override, prepare, shard_writer
from smalllm.data.parts import part_path
from smalllm.data.shards import read_manifest
from smalllm.errors import ConfigError, DataError, TokenizerError
from smalllm.tokenizers import build_tokenizer, save_tokenizer

TEXTS = file_texts()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return bytes_tokenizer(tmp_path / "tokenizer")


def prepared(tmp_path: Path, tokenizer: Path, kind: str) -> Path:
    """What `prepare` makes of the same documents, in files."""
    write_files(tmp_path / "files", TEXTS)
    changes = {
        "data.files": (str(tmp_path / "files"),),
        "data.val_fraction": VAL_FRACTION,
        "data.shard_tokens": SHARD_TOKENS,
        "tokenizer.kind": kind,
        "tokenizer.path": None if kind == "bytes" else str(tokenizer),
    }
    prepare(override(load_recipe("shakespeare"), changes), out=tmp_path / "prepared")
    return tmp_path / "prepared"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_one_task_writes_what_prepare_writes(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    if kind != "bytes":
        texts = [text for of_file in TEXTS for text in of_file]
        save_tokenizer(build_tokenizer(kind, vocab_size=280, path=None, texts=lambda: texts), tokenizer)
    expected = tree(prepared(tmp_path, tokenizer, kind))
    write_all(tmp_path / "out", tokenizer, n_tasks=1)
    merge_parts(tmp_path / "out")
    found = tree(tmp_path / "out")
    del expected["manifest.json"], found["manifest.json"]
    assert found == expected
    assert read_manifest(tmp_path / "out").splits == read_manifest(tmp_path / "prepared").splits
    assert read_manifest(tmp_path / "out").source == {
        "kind": "cluster",
        "text": "test",
        "tasks": 1,
        "val_fraction": VAL_FRACTION,
        "shard_tokens": SHARD_TOKENS,
    }


def failing_after(documents: list[Trove], n: int) -> Iterator[Trove]:
    yield from documents[:n]
    raise KeyError("a filter of the user's")


def test_a_task_that_failed_is_done_again_and_only_it(tmp_path: Path, tokenizer: Path) -> None:
    write_all(tmp_path / "whole", tokenizer, n_tasks=3)
    out, documents = tmp_path / "out", documents_of(TEXTS, 1, 3)
    write_all(out, tokenizer, n_tasks=3, tasks=[0, 2])
    others = {task: contents_with_times(part_path(out, task)) for task in (0, 2)}
    for n in (0, 1, len(documents)):
        with pytest.raises(KeyError):
            writer(out, tokenizer)(failing_after(documents, n), 1, 3)
        with pytest.raises(DataError, match="1 of 3 tasks have not finished: 1"):
            merge_parts(out)
    write_all(out, tokenizer, n_tasks=3, tasks=[1])
    assert tree(out) == tree(tmp_path / "whole")
    assert {task: contents_with_times(part_path(out, task)) for task in (0, 2)} == others


def contents_with_times(folder: Path) -> dict[str, tuple[str, int]]:
    return {name: (digest, (folder / name).stat().st_mtime_ns) for name, digest in tree(folder).items()}


def test_a_finished_task_is_done_again_with_what_it_gets_now(tmp_path: Path, tokenizer: Path) -> None:
    """A pipeline may have changed though its source is called the same; a failure in between leaves nothing old."""
    out = tmp_path / "out"
    write_all(out, tokenizer, n_tasks=1)
    fewer = documents_of(TEXTS)[:50]
    with pytest.raises(KeyError):
        writer(out, tokenizer)(failing_after(fewer, 40))
    with pytest.raises(DataError, match="found no finished part"):
        merge_parts(out)
    writer(out, tokenizer)(fewer)
    merge_parts(out)
    assert sorted(texts_of(out, "train") + texts_of(out, "val")) == sorted(doc.text for doc in fewer)


def test_documents_without_text_are_dropped(tmp_path: Path, tokenizer: Path) -> None:
    empty: list[Any] = [None, "", "\n\r\n", 7, b"bytes", ["list"]]
    documents = documents_of(TEXTS)
    mixed = [Trove(empty[i % 6], "x") if i % 2 else documents[i // 2] for i in range(2 * len(documents))]
    writer(tmp_path / "mixed", tokenizer)(mixed)
    writer(tmp_path / "clean", tokenizer)(documents)
    assert tree(tmp_path / "mixed") == tree(tmp_path / "clean")
    with pytest.raises(DataError, match=r"x:9: character 1 is half of a surrogate pair"):
        writer(tmp_path / "mixed", tokenizer)([Trove("a\ud800", "dump/x/9")])


def test_long_documents_are_cut_as_prepare_cuts_them(tmp_path: Path, tokenizer: Path) -> None:
    long = "line of text\n" * 700_000
    writer(tmp_path / "out", tokenizer, shard_tokens=10**8)([Trove(long, "a"), Trove("b", "b"), *documents_of(TEXTS)])
    merge_parts(tmp_path / "out")
    assert long in texts_of(tmp_path / "out", "train") + texts_of(tmp_path / "out", "val")


@pytest.mark.parametrize("name", ["manifest.json", ".prepare.json", "train-00000.bin"])
def test_a_task_does_not_write_to_other_data(tmp_path: Path, tokenizer: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(DataError, match=f"out: holds {name}"):
        writer(out, tokenizer)(documents_of(TEXTS))
    assert [path.name for path in out.iterdir()] == [name]


def test_a_task_needs_documents_and_the_tokenizer_it_was_started_with(tmp_path: Path, tokenizer: Path) -> None:
    step = writer(tmp_path / "out", tokenizer)
    with pytest.raises(DataError, match="expected a reader"):
        step(None)
    with pytest.raises(TokenizerError, match="expected cdcd"):
        replace(step, facts=replace(step.facts, sha256="cd" * 32))([])
    assert not (tmp_path / "out").exists()


def test_the_processes_of_the_tasks_need_no_torch(tmp_path: Path, tokenizer: Path) -> None:
    """What travels to them is found by name there."""
    program = "import pickle, sys; pickle.load(sys.stdin.buffer)([], 0, 2); print('torch' in sys.modules)"
    sent = pickle.dumps(writer(tmp_path / "out", tokenizer))
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
    assert done.stdout == b"False\n"
    assert read_manifest(part_path(tmp_path / "out", 0)).splits["train"].tokens == 0


def test_training_on_merged_parts(tmp_path: Path, tokenizer: Path) -> None:
    write_all(tmp_path / "out", tokenizer, n_tasks=3)
    merge_parts(tmp_path / "out")
    config = override(load_recipe("shakespeare"), {**TINY, "data.path": str(tmp_path / "out")})
    train_until(3, config, tmp_path / "run")
    assert [row["step"] for row in exact_rows(tmp_path / "run") if row["split"] == "train"] == [1, 2, 3]


def test_without_datatrove_the_install_line_is_told(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "datatrove"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datatrove", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'smalllm\[cluster\]'"):
        shard_writer(tmp_path / "out", tokenizer=tokenizer, source="test")


# --- with datatrove


def run_pipeline(out: Path, tokenizer: Path, *, reader: Any = None, **options: Any) -> dict[str, Any]:
    """Run it over the Parquet files beside `out`; the statistics of the last step."""
    executor = pytest.importorskip("datatrove.executor", reason="datatrove is not installed: smalllm[cluster]")
    readers = pytest.importorskip("datatrove.pipeline.readers")
    folder = out.parent / "parquet"
    if not folder.exists():
        folder.mkdir()
        for number, texts in enumerate(TEXTS):
            ids = [f"{number}.jsonl/{i}" for i in range(1, len(texts) + 1)]
            pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": ids}), folder / f"{number}.parquet")
    step = shard_writer(out, tokenizer=tokenizer, source="test", val_fraction=VAL_FRACTION, shard_tokens=SHARD_TOKENS)
    arguments: dict[str, Any] = {"tasks": 3, "workers": 1, "logging_dir": f"{out}-logs"}
    pipeline = [reader or readers.ParquetReader(str(folder)), step]
    stats = executor.LocalPipelineExecutor(pipeline, **arguments | options).run()
    return {} if stats is None else {name: stat.total for name, stat in stats.stats[-1].stats.items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_local_pipeline(tmp_path: Path, tokenizer: Path, workers: int) -> None:
    stats = run_pipeline(tmp_path / "out", tokenizer, workers=workers)
    write_all(tmp_path / "expected", tokenizer, n_tasks=3)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    splits = merge_parts(tmp_path / "out").splits
    assert stats == {
        f"{name}_{key}": getattr(split, key)
        for name, split in splits.items()
        for key in ("documents", "tokens", "text_bytes")
    }


def test_two_machines_and_a_task_that_is_lost(tmp_path: Path, tokenizer: Path) -> None:
    """Each machine runs some of the tasks on a file system that they share."""
    out = tmp_path / "out"
    run_pipeline(out, tokenizer, local_tasks=2, local_rank_offset=0)
    with pytest.raises(DataError, match="1 of 3 tasks have not finished: 2"):
        merge_parts(out)
    run_pipeline(out, tokenizer, local_tasks=1, local_rank_offset=2)
    write_all(tmp_path / "expected", tokenizer, n_tasks=3)
    assert tree(out) == tree(tmp_path / "expected")
    shutil.rmtree(part_path(out, 1))
    run_pipeline(out, tokenizer)  # datatrove thinks that all is done
    assert not part_path(out, 1).exists()
    (tmp_path / "out-logs/completions/00001").unlink()
    run_pipeline(out, tokenizer)
    assert tree(out) == tree(tmp_path / "expected")


def test_dropped_documents_are_counted(tmp_path: Path, tokenizer: Path) -> None:
    documents = [*documents_of(TEXTS), Trove(None, "a"), Trove("\n", "b"), Trove(b"c", "c")]
    assert run_pipeline(tmp_path / "out", tokenizer, reader=documents, tasks=1)["dropped"] == 3
