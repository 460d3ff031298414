"""`kill -9` on a preparation and on the processes that encode for it: scripts/prepare_kill_test.py in short."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from data_helpers import contents, repeated, run

from smalllm.data import pieces
from smalllm.data.prepare import prepare_shards
from smalllm.protocols import Tokenizer
from smalllm.tokenizers import build_tokenizer, save_tokenizer
from smalllm.tokenizers.workers import encode_in_processes

# Slow enough to be met at work; says when each batch is done.
SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_prepare_kill as here
    from smalllm.data import pieces
    pieces.BATCH_BYTES = 100
    def told(tally):
        time.sleep(0.002)
        print("batch", flush=True)
    here.prepare(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=told)
    """
)


def prepare(out: Path, saved: Path, **options: object) -> None:
    from smalllm.data.manifest import TokenizerFacts
    from smalllm.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(saved)
    facts = TokenizerFacts("bytes", tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eos_id)
    with encode_in_processes(tokenizer, saved, n_workers=2) as encode:
        prepare_shards(
            lambda: iter(repeated(900)),
            encode=encode,
            tokenizer=facts,
            out=out,
            val_fraction=0.3,
            shard_tokens=500,
            source={"name": "test"},
            dedup=True,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tokenizer: Tokenizer = build_tokenizer("bytes", vocab_size=None, path=None, texts=lambda: iter(()))
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def start(out: Path, saved: Path) -> "subprocess.Popen[str]":
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    words = [sys.executable, "-c", script, str(out), str(saved)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    return [int(word) for task in Path(f"/proc/{pid}/task").glob("*/children") for word in task.read_text().split()]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, which Linux has")
def test_kills_of_parent_and_workers_leave_the_same_bytes(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)
    prepare(tmp_path / "whole", saved)
    draw, out = random.Random(5), tmp_path / "killed"
    for n_batches, victim in [(2, "parent"), (20, "worker"), (30, "parent"), (40, "worker")]:
        with start(out, saved) as process:
            assert process.stdout is not None
            for _ in range(n_batches):
                assert process.stdout.readline() == "batch\n"
            workers = children(process.pid)
            assert len(workers) == 2
            time.sleep(draw.random() * 0.004)
            os.kill(process.pid if victim == "parent" else draw.choice(workers), signal.SIGKILL)
            _, said = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if victim == "parent" else 1), said
        assert victim == "parent" or "DataError: a process that encodes text ended with signal 9" in said
        until = time.monotonic() + 20
        while any(map(is_running, workers)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(map(is_running, workers))
        assert not (out / "manifest.json").exists()
    prepare(out, saved)
    assert contents(out) == contents(tmp_path / "whole")


def test_processes_and_one_process_make_the_same_bytes(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smalllm.data.manifest import TokenizerFacts
    from smalllm.tokenizers import load_tokenizer

    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)
    prepare(tmp_path / "two", saved)
    facts = TokenizerFacts("bytes", load_tokenizer(saved).fingerprint, 257, 256)
    options = {"tokenizer": facts, "val_fraction": 0.3, "shard_tokens": 500, "dedup": True}
    run(repeated(900), tmp_path / "one", **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
