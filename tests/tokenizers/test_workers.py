"""Encoding in processes: the same ids in the same order, errors that arrive where they belong, and no orphans."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.errors import DataError, EncodingError
from smalllm.protocols import Encoded, Tokenizer
from smalllm.tokenizers import build_tokenizer, save_tokenizer
from smalllm.tokenizers.gpt2 import MAX_WHITESPACE_RUN
from smalllm.tokenizers.workers import encode_here, encode_in_processes, map_in_order

TEXTS = [f"The cat number {i} sat on the mat. Été 猫 {'na ' * (i % 7)}<|endoftext|>\n\u2581" for i in range(60)]
KINDS = ["bytes", "sentencepiece", "huggingface", "gpt2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Path]]:
    """A tokenizer of each kind and where it is saved; none so quick that it would need no processes."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalllm.tokenizers.gigatoken.is_installed", lambda: False)
        return _folders(made, tmp_path_factory)


def _folders(
    made: dict[str, tuple[Tokenizer, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Tokenizer, Path]]:
    for kind in KINDS:
        folder, path = tmp_path_factory.mktemp(kind), None
        if kind == "gpt2":
            sys.path.insert(0, str(Path(__file__).parent))
            from test_tokenizers import gpt2_files

            path = gpt2_files(tmp_path_factory.mktemp("vocabulary"))
        size = {"sentencepiece": 320, "huggingface": 300}.get(kind)
        tokenizer = build_tokenizer(kind, vocab_size=size, path=path, texts=lambda: iter(TEXTS * 3))
        save_tokenizer(tokenizer, folder)
        made[kind] = tokenizer, folder
    return made


def batches(n: int) -> list[list[bytes]]:
    return [[TEXTS[(3 * i + j) % len(TEXTS)].encode() for j in range(i % 4)] for i in range(n)]


def same(found: list[Encoded], expected: list[Encoded]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(a.ids, b.ids) and np.array_equal(a.counts, b.counts)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_hold_the_ids_of_each_text(folders: dict[str, tuple[Tokenizer, Path]], kind: str) -> None:
    tokenizer, _ = folders[kind]

    @settings(max_examples=50)
    @given(st.lists(st.text(max_size=20) | st.sampled_from([" \n ", "<|endoftext|>", "</s>", "\u2581"]), max_size=5))
    def check(texts: list[str]) -> None:
        ids, counts = tokenizer.encode_arrays(texts)
        rows = [tokenizer.encode(text) for text in texts]
        assert ids.tolist() == [i for row in rows for i in row]
        assert counts.tolist() == [len(row) for row in rows]

    check()


def test_arrays_of_a_run_of_whitespace_longer_than_tiktoken_takes(
    folders: dict[str, tuple[Tokenizer, Path]],
) -> None:
    tokenizer, _ = folders["gpt2"]
    text = "a" + " " * (2 * MAX_WHITESPACE_RUN + 3) + "b"
    assert tokenizer.encode_arrays([text]).ids.tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_workers", [1, 3])
def test_processes_give_what_one_gives(folders: dict[str, tuple[Tokenizer, Path]], kind: str, n_workers: int) -> None:
    tokenizer, folder = folders[kind]
    expected = list(encode_here(tokenizer)(batches(23)))
    with encode_in_processes(tokenizer, folder, n_workers=n_workers) as encode:
        assert same(list(encode(iter(batches(23)))), expected)
    assert not same(expected[::-1], expected)  # the partner: the order matters


def test_one_batch_starts_no_process(folders: dict[str, tuple[Tokenizer, Path]]) -> None:
    tokenizer, _ = folders["bytes"]
    with encode_in_processes(tokenizer, Path("/nowhere"), n_workers=2) as encode:
        assert len(list(encode([[b"abc"]]))) == 1
        assert list(encode([])) == []


def test_a_folder_that_went_away_is_an_error_and_no_traceback(
    folders: dict[str, tuple[Tokenizer, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer, _ = folders["bytes"]
    with (
        encode_in_processes(tokenizer, Path("/nowhere"), n_workers=2) as encode,
        pytest.raises(DataError, match="exit code 1"),
    ):
        list(encode(batches(9)))
    said = capfd.readouterr().err
    assert "holds no smalllm tokenizer" in said and "Traceback" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_cannot_be_encoded_is_named(folders: dict[str, tuple[Tokenizer, Path]], kind: str) -> None:
    """Bytes that are not UTF-8 stand for whatever a library may fail on."""
    tokenizer, folder = folders[kind]
    bad = [*batches(6), [b"fine", b"\xff\xfe", b"fine"], *batches(6)]
    with encode_in_processes(tokenizer, folder, n_workers=2) as encode:
        results = encode(bad)
        assert same([next(results) for _ in range(6)], list(encode_here(tokenizer)(batches(6))))
        with pytest.raises(EncodingError, match="UnicodeDecodeError") as caught:
            next(results)
    assert caught.value.index == 1
    with pytest.raises(EncodingError):
        list(encode_here(tokenizer)([[b"\xff"]]))


def test_an_error_of_the_input_comes_after_the_results_before_it(
    folders: dict[str, tuple[Tokenizer, Path]],
) -> None:
    tokenizer, folder = folders["bytes"]

    def damaged() -> Iterator[list[bytes]]:
        yield from batches(5)
        raise DataError("row 6 is damaged")

    found = []
    with encode_in_processes(tokenizer, folder, n_workers=3) as encode, pytest.raises(DataError, match="row 6"):
        for encoded in encode(damaged()):
            found.append(encoded)
    assert same(found, list(encode_here(tokenizer)(batches(5))))


def test_no_more_is_read_than_can_be_under_way() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with ThreadPoolExecutor(2) as threads:
        results = map_in_order(threads, lambda i: i * i, items(), ahead=4)
        for i in range(1, 50):
            assert next(results) == i * i
            assert taken <= i + 4
        results.close()  # type: ignore[attr-defined]


# --- processes that end


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


def wait_until(happened: Callable[[], bool], *, limit_s: float = 20.0) -> bool:
    until = time.monotonic() + limit_s
    while not happened() and time.monotonic() < until:
        time.sleep(0.01)
    return happened()


# Encodes without an end, and names its own processes.
ENDLESS = textwrap.dedent(
    """
    import sys, itertools, subprocess
    from pathlib import Path
    from smalllm.tokenizers import load_tokenizer
    from smalllm.tokenizers import gigatoken, workers
    gigatoken.is_installed = lambda: False
    start = subprocess.Popen.__init__
    def told(self, *arguments, **options):
        start(self, *arguments, **options)
        print(self.pid, flush=True)
    subprocess.Popen.__init__ = told
    folder = Path(sys.argv[1])
    tokenizer = load_tokenizer(folder)
    text = b"a long text that takes its time " * 20_000
    with workers.encode_in_processes(tokenizer, folder, n_workers=2) as encode:
        for number, _ in enumerate(encode([text] for _ in itertools.count())):
            if number:  # the first is encoded by the parent
                print("batch", flush=True)
    """
)


def start_endless(folder: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that encodes, and the ids of its workers, when they have done a batch."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids = []
    while (line := process.stdout.readline().strip()) != "batch":
        pids.append(int(line))
    return process, pids


@pytest.mark.parametrize(("kind", "how"), [("bytes", signal.SIGINT), ("huggingface", signal.SIGKILL)])
def test_workers_end_with_their_parent(
    folders: dict[str, tuple[Tokenizer, Path]], kind: str, how: signal.Signals
) -> None:
    process, pids = start_endless(folders[kind][1])
    with process:
        assert len(pids) == 2 and all(map(is_running, pids))
        process.send_signal(how)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_a_killed_worker_is_an_error_that_names_the_signal(folders: dict[str, tuple[Tokenizer, Path]]) -> None:
    process, pids = start_endless(folders["huggingface"][1])
    with process:
        os.kill(pids[0], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DataError: a process that encodes text ended with signal 9 (SIGKILL)" in said
    assert wait_until(lambda: not is_running(pids[1]))


def test_workers_do_without_torch(folders: dict[str, tuple[Tokenizer, Path]]) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import smalllm.tokenizers.worker as worker
        for folder in sys.argv[1:]:
            worker.encode_batch(worker.load_tokenizer(Path(folder)), [b"text"])
        print([name for name in ("torch", "pyarrow", "transformers") if name in sys.modules])
        """
    )
    paths = [str(folder) for _, folder in folders.values()]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    # The partner: the process that starts them has it, or it would not matter.
    script = "import sys, smalllm.api.preparation; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "True\n"


def test_nothing_in_the_current_folder_is_taken_for_a_module(
    folders: dict[str, tuple[Tokenizer, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    tokenizer, folder = folders["bytes"]
    with encode_in_processes(tokenizer, folder, n_workers=1) as encode:
        assert len(list(encode(batches(4)))) == 4
