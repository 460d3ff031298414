"""Crashes of a preparation: the disk is never behind the progress; kill -9 and a full disk change no byte."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from data_helpers import contents, encode_batch, run, stories

from smalllm.data import pieces
from smalllm.data.document import Document
from smalllm.data.writer import SplitState, SplitWriter
from smalllm.errors import DataError


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)


def unsynced(out: Path, documents: Sequence[Document]) -> list[str]:
    """The shards that some progress counted on before the disk had them, in a run that watches both."""
    synced: dict[int, int] = {}
    early: list[str] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    def replace(temporary: Path, target: Path) -> None:
        if Path(target).name == ".prepare.json":
            for split, state in json.loads(Path(temporary).read_text())["writers"].items():
                open_name = f"{split}-{len(state['files']):05d}.bin"
                for name, tokens in [
                    *((f["name"], f["tokens"]) for f in state["files"]),
                    (open_name, state["tokens"]),
                ]:
                    if tokens and synced.get((out / name).stat().st_ino, 0) < 2 * tokens:
                        early.append(name)
        if Path(target).exists():
            synced.pop(Path(target).stat().st_ino, None)  # its number is free for a shard to come
        rename(temporary, target)

    rename = os.rename
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)
        run(documents, out)
    assert synced
    return early


def test_progress_is_never_ahead_of_the_disk(
    tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unsynced(tmp_path / "right", stories(40)) == []

    # The partner: a writer that only flushes is caught.
    def flush(self: SplitWriter) -> SplitState:
        if self._file is not None:
            self._file.flush()
        return SplitState(tuple(self._files), self._tokens, self._documents, self._text_bytes)

    monkeypatch.setattr(SplitWriter, "sync", flush)
    assert "train-00000.bin" in unsynced(tmp_path / "wrong", stories(40))


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from data_helpers import encode_batch, run, stories
    from smalllm.data import pieces
    pieces.BATCH_BYTES = 100
    def slow(texts):
        time.sleep(0.002)
        print("batch", flush=True)
        return encode_batch(texts)
    run(stories(150), Path(sys.argv[1]), encode_batch=slow)
    """
)


def start(out: Path) -> "subprocess.Popen[bytes]":
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE)


def test_kill_leaves_the_same_bytes(tmp_path: Path, small_batches: None) -> None:
    documents = stories(150)
    expected = run(documents, tmp_path / "whole")
    draw = random.Random(7)
    for n_batches in (1, 25, 60):
        out = tmp_path / f"killed-{n_batches}"
        with start(out) as process:
            assert process.stdout is not None
            for _ in range(n_batches):
                process.stdout.readline()
            time.sleep(draw.random() * 0.004)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        assert run(documents, out) == expected
        assert contents(out) == contents(tmp_path / "whole")


def test_one_writer_at_a_time(tmp_path: Path, small_batches: None) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DataError, match=r"another process is preparing"):
            run(stories(150), tmp_path)
        process.kill()
    run(stories(150), tmp_path)  # the lock went with its process


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, small_batches: None) -> None:
    documents, out = stories(60), tmp_path / "full"
    expected = run(documents, tmp_path / "whole")
    calls = 0

    def filling(texts: Sequence[str]) -> list[list[int]]:
        nonlocal calls
        calls += 1
        if calls == 10:
            # The next shard of train lands on a device that is always full.
            n_made = len(list(out.glob("train-*.bin")))
            (out / f"train-{n_made:05d}.bin").symlink_to("/dev/full")
        return encode_batch(texts)

    with pytest.raises(DataError, match=r"the disk is full .* run the same command again") as caught:
        run(documents, out, encode_batch=filling)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert run(documents, out) == expected
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("dedup", [False, True])
def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(tmp_path: Path, dedup: bool) -> None:
    """`ulimit -f`, in a process of its own; the same call without it goes on from there."""
    script = textwrap.dedent(
        f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from data_helpers import run, stories
        from smalllm.data import pieces
        from smalllm.errors import DataError
        pieces.BATCH_BYTES = 100
        if sys.argv[2] != "none":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        try:
            run(stories(150), Path(sys.argv[1]), shard_tokens=3000, dedup={dedup})
        except DataError as error:
            print(error)
        """
    )

    def call(out: Path, limit_bytes: str) -> str:
        words = [sys.executable, "-c", script, str(out), limit_bytes]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert call(tmp_path / "whole", "none") == ""
    for limit_bytes in ("3000", "5000"):  # a shard has 6,000, the record of texts seen 8,192
        said = call(tmp_path / "cut", limit_bytes)
        assert "run the same command again: it continues" in said, said
    assert call(tmp_path / "cut", "none") == ""
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("dedup", [False, True])
def test_a_small_disk_fills_up_and_is_freed(tmp_path: Path, small_disk: Path, small_batches: None, dedup: bool) -> None:
    documents = stories(300)
    expected = run(documents, tmp_path / "whole", shard_tokens=4000, dedup=dedup)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(212 << 10))
    with pytest.raises(DataError, match=r"full.*[Ff]ree some space and run the same command again"):
        run(documents, small_disk / "data", shard_tokens=4000, dedup=dedup)
    assert not (small_disk / "data" / "manifest.json").exists()
    filler.unlink()
    assert run(documents, small_disk / "data", shard_tokens=4000, dedup=dedup) == expected
    assert contents(small_disk / "data") == contents(tmp_path / "whole")
