"""How fast text becomes tokens: the tokenizer's own library on one thread, each of our paths, and `prepare` whole.

All are measured on the same documents and in turn, round by round, so that a machine that is busy with other things
slows all of them; their ratios, taken within a round, say more than their rates.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from smalllm.api.hub import tokenizer_path
from smalllm.api.preparation import prepare
from smalllm.config import DataConfig, RunConfig, TokenizerConfig
from smalllm.data.sources import expand_files, read_files, read_python_library
from smalllm.errors import ConfigError
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.runtime import n_physical_cores
from smalllm.tokenizers import build_tokenizer, save_tokenizer
from smalllm.tokenizers.workers import encode_in_processes

BASELINE = "library, 1 thread"
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What one way of encoding did.

    Attributes:
        mb_per_second: text, median over the rounds [10^6 UTF-8 bytes per second].
        ratio: to the baseline of the same round, median over the rounds.
        rounds: its `mb_per_second` in each round.
    """

    mb_per_second: float
    ratio: float
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeBench:
    """What was measured on.

    Attributes:
        tokenizer: its kind.
        documents: how many.
        text_bytes: their UTF-8 length [bytes].
        n_workers: processes of the last two ways.
        rates: by the name of the way; `BASELINE` is the first.
    """

    tokenizer: str
    documents: int
    text_bytes: int
    n_workers: int
    rates: dict[str, Rate]


def bench_tokenize(
    files: Sequence[str],
    *,
    tokenizer: TokenizerConfig,
    text_column: str = "text",
    separator: str | None = None,
    megabytes: float = 40.0,
    rounds: int = 3,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> TokenizeBench:
    """Measure every way from text to tokens.

    Args:
        files: text, JSON Lines or Parquet; none: the source of Python's standard library.
        tokenizer: which one; one that must be trained is trained on this text before.
        text_column: of JSON Lines and Parquet.
        separator: between the documents of a text file.
        megabytes: how much text is used at most [10^6 bytes].
        rounds: how often each way is measured.
        n_workers: processes; absent: one per physical core.
        progress: told of each round.

    Raises:
        ConfigError: `megabytes`, `rounds` or `n_workers` is not positive.
        DataError: the files cannot be read, or a tokenizer of the Hub could not be had.
        TokenizerError: the tokenizer cannot be built.
    """
    n_workers, progress = n_workers or n_physical_cores(), progress or Silent()
    if megabytes <= 0 or rounds < 1 or n_workers < 1:
        raise ConfigError(f"--megabytes {megabytes} --rounds {rounds} --workers {n_workers}: each must be positive")
    texts = _texts(files, text_column=text_column, separator=separator, limit_bytes=int(megabytes * 1e6))
    text_bytes = sum(len(text.encode()) for text in texts)
    with TemporaryDirectory(prefix="smalllm-bench-") as name:
        path = tokenizer_path(tokenizer.kind, tokenizer.path, progress.say)
        ways = _ways(Path(name), texts, replace(tokenizer, path=None if path is None else str(path)), n_workers)
        measured: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1, rounds + 1):
            for way, run in ways.items():
                started_at = time.perf_counter()
                run()
                measured[way].append(text_bytes / 1e6 / (time.perf_counter() - started_at))
                progress.say(f"round {number} of {rounds}: {way}, {measured[way][-1]:.1f} MB/s")
    return TokenizeBench(
        tokenizer=tokenizer.kind,
        documents=len(texts),
        text_bytes=text_bytes,
        n_workers=n_workers,
        rates={way: _rate(found, measured[BASELINE]) for way, found in measured.items()},
    )


def _rate(found: list[float], baseline: list[float]) -> Rate:
    ratios = [one / other for one, other in zip(found, baseline, strict=True)]
    return Rate(mb_per_second=statistics.median(found), ratio=statistics.median(ratios), rounds=tuple(found))


def _texts(files: Sequence[str], *, text_column: str, separator: str | None, limit_bytes: int) -> list[str]:
    """Whole documents, up to the limit."""
    if files:
        documents = read_files(expand_files(files), separator=separator, text_column=text_column)
    else:
        documents = read_python_library()
    texts: list[str] = []
    left_bytes = limit_bytes
    for document in documents:
        texts.append(document.text)
        left_bytes -= len(document.text.encode())
        if left_bytes <= 0:
            break
    return texts


def _ways(folder: Path, texts: list[str], asked: TokenizerConfig, n_workers: int) -> dict[str, Callable[[], object]]:
    """What is measured; each way reads or encodes all of the texts once."""
    import pyarrow
    import pyarrow.parquet

    path = Path(asked.path) if asked.path else None
    tokenizer = build_tokenizer(asked.kind, vocab_size=asked.vocab_size, path=path, texts=lambda: iter(texts))
    save_tokenizer(tokenizer, folder / "tokenizer")
    for name, some in (("text", texts), ("val", texts[:1])):  # one apart, so that neither split is empty
        pyarrow.parquet.write_table(pyarrow.table({"text": some}), folder / f"{name}.parquet", row_group_size=4096)
    batches = list(_batches(texts))
    config = RunConfig(
        data=DataConfig(
            files=(str(folder / "text.parquet"),), val_files=(str(folder / "val.parquet"),), workers=n_workers
        ),
        tokenizer=TokenizerConfig(kind=asked.kind, path=None if asked.kind == "bytes" else str(folder / "tokenizer")),
    )
    outs = (folder / f"data-{i}" for i in range(1_000_000))
    return {
        BASELINE: lambda: _alone(tokenizer, texts),
        "arrays, 1 thread": lambda: [tokenizer.encode_arrays(batch) for batch in batches],
        "library's threads": lambda: [tokenizer.encode_batch(batch) for batch in batches],
        f"{n_workers} processes": lambda: _in_processes(tokenizer, folder / "tokenizer", batches, n_workers),
        f"prepare, {n_workers} processes": lambda: prepare(config, out=next(outs)),
    }


def _alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    with _one_thread():
        for text in texts:
            tokenizer.encode(text)


def _in_processes(tokenizer: Tokenizer, folder: Path, batches: list[list[str]], n_workers: int) -> None:
    with encode_in_processes(tokenizer, folder, n_workers=n_workers) as encode:
        for _ in encode([text.encode() for text in batch] for batch in batches):
            pass


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep Hugging Face's tokenizers to this thread."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size_bytes = 0
    for text in texts:
        batch.append(text)
        size_bytes += len(text.encode())
        if size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    yield from filter(None, [batch])
