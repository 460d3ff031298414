"""Reading shards: exact round trips, and every kind of damage named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import make
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smalllm.data.shards import (
    Manifest,
    ShardFile,
    Split,
    TokenizerFacts,
    TokenStream,
    open_split,
    read_manifest,
    verify_shards,
    write_manifest,
)
from smalllm.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path, train=list(range(10)), val=[7, 8, 9])
    return tmp_path


@settings(deadline=None)  # it waits for the disk
@given(
    ids=st.lists(st.integers(0, 70_000), min_size=1, max_size=60),
    shard_tokens=st.integers(1, 70),
    cuts=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], shard_tokens: int, cuts: tuple[int, int]
) -> None:
    directory = tmp_path_factory.mktemp("data")
    vocab_size = max(ids) + 1
    made = make(directory, train=ids, val=[0], shard_tokens=shard_tokens, vocab_size=vocab_size)
    manifest = read_manifest(directory)
    assert manifest == made
    verify_shards(directory, manifest)
    stream = open_split(directory, manifest, "train")
    start, stop = sorted(min(cut, len(ids)) for cut in cuts)
    assert stream.n_tokens == manifest.splits["train"].tokens == len(ids)
    assert stream.read(start, stop).tolist() == ids[start:stop]
    assert max(file.tokens for file in manifest.splits["train"].files) <= shard_tokens
    names = [stream.where(i) for i in range(len(ids))]
    assert names == [(f"train-{i // shard_tokens:05d}.bin", i % shard_tokens) for i in range(len(ids))]


def test_dtype_is_the_smaller_that_holds_every_id(tmp_path: Path) -> None:
    for vocab_size, dtype in [(65_536, "uint16"), (65_537, "uint32")]:
        directory = tmp_path / dtype
        directory.mkdir()
        manifest = make(directory, train=[0, vocab_size - 1], val=[1], vocab_size=vocab_size)
        assert manifest.dtype == dtype
        assert (directory / "train-00000.bin").read_bytes() == np.array([0, vocab_size - 1], dtype).tobytes()
        assert open_split(directory, manifest, "train").read(0, 2).tolist() == [0, vocab_size - 1]


def test_nanogpt_reader_reads_a_shard(data: Path) -> None:
    # The line with which nanoGPT opens its data.
    assert np.memmap(data / "train-00001.bin", dtype=np.uint16, mode="r").tolist() == [4, 5, 6, 7]


def test_same_manifest_same_bytes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    make(other, train=list(range(10)), val=[7, 8, 9])
    assert (other / "manifest.json").read_bytes() == (data / "manifest.json").read_bytes()
    assert str(data) not in (data / "manifest.json").read_text()


def test_floor_is_optional(data: Path) -> None:
    manifest = read_manifest(data)
    write_manifest(data, Manifest(manifest.tokenizer, manifest.splits, manifest.source))
    assert read_manifest(data).floor is None
    assert "floor" not in json.loads((data / "manifest.json").read_text())


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size_is_named_with_both_sizes(data: Path, change: int) -> None:
    path = data / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:7] if change < 0 else path.read_bytes() + b"x")
    with pytest.raises(DataError, match=rf"train-00001.bin: the file has {8 + change} bytes; expected 8 bytes"):
        open_split(data, read_manifest(data), "train")
    open_split(data, read_manifest(data), "val")


def test_missing_shard_is_named(data: Path) -> None:
    (data / "train-00002.bin").unlink()
    with pytest.raises(DataError, match=r"train-00002.bin: the file is missing"):
        open_split(data, read_manifest(data), "train")
    with pytest.raises(DataError, match=r"train-00002.bin: the file is missing"):
        verify_shards(data, read_manifest(data))


def test_altered_bytes_are_found_by_verify(data: Path) -> None:
    manifest = read_manifest(data)
    verify_shards(data, manifest)
    path = data / "train-00001.bin"
    path.write_bytes(path.read_bytes()[::-1])
    open_split(data, manifest, "train")  # sizes are right: only the hash can tell
    with pytest.raises(DataError, match=r"train-00001.bin: the file was altered"):
        verify_shards(data, manifest)


def test_impossible_id_is_found_when_it_is_read(data: Path) -> None:
    manifest = read_manifest(data)
    (data / "train-00001.bin").write_bytes(np.array([4, 5, 300, 7], "<u2").tobytes())
    stream = open_split(data, manifest, "train")
    assert stream.read(0, 6).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"train-00001.bin: token 2 is 300; .*vocab_size, 300"):
        stream.read(0, 7)
    with pytest.raises(DataError, match=r"train-00001.bin: token 2 is 300"):
        stream.read_rows(np.array([0, 4]), 3)


def test_stream_of_other_arrays() -> None:
    parts: list[tuple[str, NDArray[Any]]] = [
        ("a", np.array([1, 2], np.int32)),
        ("b", np.array([3], np.uint16)),
        ("c", np.array([4, -5], np.int32)),
    ]
    stream = TokenStream(parts, vocab_size=10)
    assert stream.n_tokens == 5
    assert stream.read(1, 4).tolist() == [2, 3, 4]
    assert [stream.where(i) for i in range(5)] == [("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1)]
    with pytest.raises(DataError, match="c: token 1 is -5"):
        stream.read(0, 5)


def test_reading_outside_is_an_error_not_a_short_answer(data: Path) -> None:
    stream = open_split(data, read_manifest(data), "train")
    assert stream.read(10, 10).tolist() == []
    for start, stop in [(-1, 2), (9, 11), (11, 11), (3, 2)]:
        with pytest.raises(IndexError):
            stream.read(start, stop)
    for position in (-1, 10):
        with pytest.raises(IndexError):
            stream.where(position)


def test_what_is_read_is_a_copy(data: Path) -> None:
    stream = open_split(data, read_manifest(data), "train")
    stream.read(0, 4)[:] = 9
    assert stream.read(0, 4).tolist() == [0, 1, 2, 3]


def test_large_shards_open_without_being_read(tmp_path: Path) -> None:
    # Sparse files: 4 of 1 GiB that take no space; reading them all would take far longer than a test may.
    n_tokens = 2**29
    files = tuple(ShardFile(f"train-{i:05d}.bin", n_tokens, 1, 1, "0" * 64) for i in range(4))
    for file in files:
        with (tmp_path / file.name).open("wb") as stream:
            stream.truncate(2 * n_tokens)
    tokenizer = TokenizerFacts("bytes", "0" * 64, 257, 256)
    manifest = Manifest(tokenizer, {"train": Split(files), "val": Split(())}, {})
    opened = open_split(tmp_path, manifest, "train")
    assert opened.n_tokens == 4 * n_tokens
    assert opened.read_rows(np.arange(0, 4 * n_tokens - 9, n_tokens // 2), 9).sum() == 0
    assert open_split(tmp_path, manifest, "val").n_tokens == 0


@pytest.mark.parametrize("hard", [1000, 200], ids=["soft", "hard"])
def test_more_shards_than_files_may_be_open(tmp_path: Path, hard: int) -> None:
    """macOS allows a process 256 files until it asks for more."""
    make(tmp_path, train=list(range(280)), val=[1], shard_tokens=1)
    script = f"""
import resource, sys
from pathlib import Path
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import DataError
resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}))
try:
    stream = open_split(Path(sys.argv[1]), read_manifest(Path(sys.argv[1])), "train")
    print(stream.read(0, 280).tolist() == list(range(280)), resource.getrlimit(resource.RLIMIT_NOFILE)[0] < {hard})
except DataError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    if hard == 1000:
        assert said == "True True\n"
    else:
        assert "Too many open files" in said and "ulimit -n" in said
