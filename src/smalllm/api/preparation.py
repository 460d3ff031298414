"""`prepare`: from a source to shards. Wires sources, tokenizers, processes and the shard writer together."""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from smalllm.api.data import Documents, data_path, open_source
from smalllm.api.foreign import tokenizer_facts
from smalllm.api.hub import tokenizer_path
from smalllm.config import RunConfig
from smalllm.data.dedup import Deduplicator
from smalllm.data.document import Document, Reading
from smalllm.data.manifest import MANIFEST_NAME, PROGRESS_NAME, Manifest, dtype_for
from smalllm.data.parts import check_no_parts, check_unmerged, part_path
from smalllm.data.pieces import assign_splits
from smalllm.data.prepare import prepare_shards, tally_documents
from smalllm.data.summary import Tally, partial_tokens
from smalllm.errors import ConfigError
from smalllm.problems import check
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.reporting.words import duration
from smalllm.runtime import n_physical_cores
from smalllm.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer
from smalllm.tokenizers.workers import encode_here, encode_in_processes

_TRAINED = ("sentencepiece", "huggingface")


def prepare(
    config: RunConfig,
    *,
    out: Path | None = None,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Turn text into a tokenizer and memory-mapped shards, with one process per core.

    Running it again continues after a kill, and returns at once when everything is there. What is written does not
    depend on interruptions or on the number of processes.

    Args:
        config: its `[data]` and `[tokenizer]` say what to read.
        out: the data directory; absent: `data_path(config)`.
        part: (i, n) prepares every n-th file from the i-th on, counted from 0; when all parts are there, on whatever
            machines they were made, `merge_parts(out)` makes them one.
        progress: who is told how it goes.

    Raises:
        ConfigError: the configuration has problems, or cannot be prepared in parts.
        DataError: the text or the directory cannot be used, or a process was ended.
        TokenizerError: the tokenizer cannot be built from this text.
    """
    check(config)
    out, progress = out or data_path(config), progress or Silent()
    if part is None:
        check_no_parts(out)
    else:
        _check_part(config, part)
        check_unmerged(out)
        out = part_path(out, part[0])
    documents, source = open_source(config.data, part=part, notice=progress.say)
    tokenizer = _tokenizer(config, out, documents, progress)
    reading, n_workers = Reading(), config.data.workers or n_physical_cores()
    progress.begin(f"preparing {out}", total=0)
    try:
        with encode_in_processes(tokenizer, out / "tokenizer", n_workers=n_workers) as encode:
            return prepare_shards(
                lambda: documents(reading),
                encode=encode,
                tokenizer=tokenizer_facts(tokenizer),
                out=out,
                val_fraction=config.data.val_fraction,
                shard_tokens=config.data.shard_tokens,
                source=source,
                dedup=config.data.dedup,
                is_partial=partial_tokens(tokenizer),
                on_begin=partial(_save_whole, tokenizer, out / "tokenizer"),
                on_progress=_Rates(progress, reading).tell,
                is_part=part is not None,
            )
    finally:
        progress.end()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What `try_prepare` found.

    Attributes:
        tally: counts over the documents that were read.
        share: how much of the source they are [0 to 1]; None where the source does not know.
        elapsed_s: how long reading and encoding them took, in one process, and fetching all but the first file [s].
        n_workers: processes that `prepare` would use.
        id_bytes: size of an id in the shards [bytes].
    """

    tally: Tally
    share: float | None
    elapsed_s: float
    n_workers: int
    id_bytes: int

    def expected(self) -> dict[str, float]:
        """What `prepare` should make of the whole source: documents, tokens, shard_bytes and elapsed_s.

        Estimates, which take the rest to be like what was read; empty where the share is not known.
        """
        if not self.share:
            return {}
        tokens = self.tally.tokens / self.share
        return {
            "documents": self.tally.documents / self.share,
            "tokens": tokens,
            "shard_bytes": tokens * self.id_bytes,
            "elapsed_s": self.elapsed_s / self.share / self.n_workers,
        }


def try_prepare(config: RunConfig, *, n_documents: int, progress: Progress | None = None) -> Trial:
    """Read and encode the first documents as `prepare` would, and write nothing.

    Args:
        config: as for `prepare`.
        n_documents: how many documents to read at most.
        progress: who is told how it goes.

    Raises:
        ConfigError: the configuration has problems.
        DataError: the text cannot be used.
        TokenizerError: the tokenizer cannot be built from this text.
    """
    check(config)
    progress = progress or Silent()
    documents, _ = open_source(config.data, in_turn=True, notice=progress.say)
    tokenizer = _new_tokenizer(config, documents, progress)
    reading, started_at = Reading(), time.perf_counter()
    with ExitStack() as stack:
        seen = None
        if config.data.dedup:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="smalllm-")))
            seen = stack.enter_context(closing(Deduplicator(folder)))
        tally = tally_documents(
            _first(documents(reading), n_documents),
            encode=encode_here(tokenizer),
            tokenizer=tokenizer_facts(tokenizer),
            is_partial=partial_tokens(tokenizer),
            seen=seen,
        )
    return Trial(
        tally=tally,
        share=reading.share,
        elapsed_s=time.perf_counter() - started_at,
        n_workers=config.data.workers or n_physical_cores(),
        id_bytes=int(dtype_for(tokenizer.vocab_size).removeprefix("uint")) // 8,
    )


def _first(documents: Iterable[Document], n_documents: int) -> Iterator[Document]:
    """The pieces of the first `n_documents` documents."""
    rest = iter(documents)
    for _ in range(n_documents):
        for piece in rest:
            yield piece
            if piece.final:
                break


def _check_part(config: RunConfig, part: tuple[int, int]) -> None:
    task, n_tasks = part
    wrong, asked = [], config.tokenizer
    if not 0 <= task < n_tasks:
        wrong.append(f"part {task}/{n_tasks}: expected I/N, with I from 0 to N - 1")
    if config.data.dedup:
        wrong.append("data.dedup is true, but a part cannot know the documents of the others; set it to false")
    if asked.path is None and asked.kind in _TRAINED:
        wrong.append(
            f"a {asked.kind} tokenizer would be trained on each part anew; train one on a sample first (prepare a few "
            "of the files), and give it to all parts: --tokenizer.path SAMPLE/tokenizer"
        )
    if wrong:
        raise ConfigError(wrong)


class _Rates:
    """Turns counts into words: how fast it goes, and how long it will take."""

    def __init__(self, progress: Progress, reading: Reading) -> None:
        self._progress, self._reading = progress, reading
        self._began: tuple[float, Tally, float] | None = None

    def tell(self, tally: Tally) -> None:
        """Tell of the counts so far."""
        now_s, share = time.perf_counter(), self._reading.share
        if self._began is None:
            # What an earlier process did, and the start of this one's workers, say nothing about the rate.
            self._began = now_s, tally, share or 0.0
        began_s, before, share_before = self._began
        note = f"{tally.text_bytes / 1e6:,.1f} MB, {tally.tokens:,} tokens"
        elapsed_s = now_s - began_s
        if elapsed_s > 0:
            note += f", {(tally.text_bytes - before.text_bytes) / 1e6 / elapsed_s:.1f} MB/s"
            note += f", {(tally.tokens - before.tokens) / elapsed_s:,.0f} tokens/s"
        if share is not None and share > share_before:
            note += f", {duration((1 - share) / (share - share_before) * elapsed_s)} left"
        self._progress.advance(tally.documents, note)


def _training_texts(documents: Iterable[Document], *, val_fraction: float) -> Iterator[str]:
    """What a tokenizer may learn from: everything but the held-out documents."""
    pieces = assign_splits(documents, val_fraction=val_fraction, split=None)
    return (piece.raw.decode() for piece in pieces if piece.split == "train")


def _tokenizer(config: RunConfig, out: Path, documents: Documents, progress: Progress) -> Tokenizer:
    """The one that was trained for what is in `out`, finished or not, if it is what is asked for; else a new one."""
    asked, saved = config.tokenizer, out / "tokenizer"
    is_begun = (out / MANIFEST_NAME).exists() or (out / PROGRESS_NAME).exists()
    if is_begun and saved.exists() and asked.path is None and asked.kind in _TRAINED:
        found = load_tokenizer(saved)
        if (found.kind, found.vocab_size) == (asked.kind, asked.vocab_size):
            return found
    return _new_tokenizer(config, documents, progress)


def _save_whole(tokenizer: Tokenizer, directory: Path) -> None:
    """Save a tokenizer in the place of what was there; a kill leaves the one, the other or nothing."""
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_tokenizer(tokenizer, temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def _new_tokenizer(config: RunConfig, documents: Documents, progress: Progress) -> Tokenizer:
    asked = config.tokenizer
    path = tokenizer_path(asked.kind, asked.path, progress.say)
    if path is None and asked.kind in _TRAINED:
        progress.say(f"training a {asked.kind} tokenizer of {asked.vocab_size:,} tokens on the text")
    return build_tokenizer(
        asked.kind,
        vocab_size=asked.vocab_size,
        path=path,
        texts=lambda: _training_texts(documents(), val_fraction=config.data.val_fraction),
    )
