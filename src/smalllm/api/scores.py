"""`evaluate`, and the evaluation that a run makes of itself: against the unigram model and the stories' floor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.api.data import data_path, load_data
from smalllm.config import RunConfig
from smalllm.data.batches import document_windows
from smalllm.data.manifest import Manifest
from smalllm.data.padded import IGNORED
from smalllm.data.shards import TokenStream, open_split
from smalllm.data.stories import parse
from smalllm.data.windows import open_windows
from smalllm.errors import ConfigError
from smalllm.evaluation.batches import document_batches, window_batches
from smalllm.evaluation.loss import Score, score_model
from smalllm.evaluation.unigram import count_tokens, score_unigram
from smalllm.model.gpt import GPT
from smalllm.protocols import Progress, Tokenizer
from smalllm.run import Run, check_tokenizer, load_run

_BLOCK_TOKENS = 1 << 20
_UNIGRAM_TOKENS = 100_000_000
_BLOCK_WINDOWS, _BLOCK_TOKENS = 16, 8_192  # scored at once; the smaller of both


class Exam:
    """A fixed part of the validation split, the same each time it is asked for.

    Text is scored in windows, in order, laid and masked as in training. Stories are scored whole, each from its own
    start, because their exact probability is known: the floor is minus the log-probability of the very stories that are
    scored.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, tokenizer: Tokenizer, config: RunConfig, *, max_tokens: int
    ) -> None:
        """Choose what to score.

        Args:
            directory: of the shards.
            manifest: of the shards.
            tokenizer: that made them.
            config: the context length, packing and document mask are used.
            max_tokens: about how many to score; 0: the whole split.

        Raises:
            DataError: the split is shorter than one window.
            ConfigError: a story is longer than the context.
        """
        self.stream = open_split(directory, manifest, "val")
        self.tokenizer = tokenizer
        context_length = config.model.context_length
        self.documents = (
            _documents(self.stream, tokenizer, context_length, max_tokens=max_tokens) if manifest.floor else []
        )
        self.windows = open_windows(
            self.stream,
            packing=config.data.packing,
            context_length=context_length,
            eos_id=tokenizer.eos_id,
            split="val",
        )
        self.n_windows = self.windows.first(max_tokens)
        self.block_windows = min(_BLOCK_WINDOWS, max(1, _BLOCK_TOKENS // context_length))
        self.has_floor = bool(manifest.floor)
        self.document_mask = config.data.document_mask

    def score(self, model: GPT, *, device: str, precision: str, rank: int = 0, n_ranks: int = 1) -> Score:
        """Score a model on it, or on the part of it that one of several processes has: every n-th batch."""
        if self.has_floor:
            batches = document_batches(self.documents, eos_id=self.tokenizer.eos_id)
        else:
            batches = window_batches(self._blocks())
        return score_model(
            model,
            islice(batches, rank, None, n_ranks),
            token_byte_lengths=self.tokenizer.token_byte_lengths,
            device=device,
            precision=precision,
            eos_id=self.tokenizer.eos_id if self.document_mask else None,
        )

    def unigram(self, train: TokenStream) -> Score:
        """What token frequencies alone score on it."""
        vocab_size = self.tokenizer.vocab_size
        targets = self.documents if self.has_floor else (t[t != IGNORED] for _, t in self._blocks())
        return score_unigram(
            count_tokens(_read_blocks(train), vocab_size=vocab_size),
            count_tokens(targets, vocab_size=vocab_size),
            token_byte_lengths=self.tokenizer.token_byte_lengths,
        )

    def floor(self) -> Score | None:
        """What the grammar itself scores on it; None for text of unknown entropy."""
        if not self.has_floor:
            return None
        nats, n_bytes = 0.0, 0
        for document in self.documents:
            text = self.tokenizer.decode(document.tolist())
            nats -= parse(text).log_prob
            n_bytes += len(text.encode())
        return Score(nats, sum(len(d) for d in self.documents), nats, n_bytes)

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for first in range(0, self.n_windows, self.block_windows):
            ids = np.arange(first, min(first + self.block_windows, self.n_windows), dtype=np.int64)
            yield self.windows.read(ids)


def evaluate(
    run: Run | str | Path,
    *,
    tasks: Sequence[str] = ("loss",),
    data: Path | None = None,
    tokens: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run on held-out text.

    Args:
        run: a loaded run, or the path of one: a run directory (its best checkpoint) or a checkpoint.
        tasks: what to measure; "loss" is the validation split.
        data: another data directory of the same tokenizer, or a folder of another program's shards, which are taken
            for its own; absent: the run's own.
        tokens: score about so many; 0: the whole split.
        progress: told what another program's shards were taken for.

    Returns:
        `{"run", "checkpoint", "results": {"loss": {…, "unigram": …, "floor": …}}}`.

    Raises:
        ConfigError: an unknown task.
        CheckpointError, DataError, TokenizerError: the run or the data cannot be used.
    """
    unknown = [task for task in tasks if task != "loss"]
    if unknown or not tasks:
        raise ConfigError(f"tasks = {', '.join(unknown) or 'none'}: must be loss")
    run = run if isinstance(run, Run) else load_run(run)
    directory = data or data_path(run.config)
    manifest, tokenizer = load_data(
        directory,
        command=f"smalllm prepare {run.dir.config} --out {directory}",
        data=run.config.data if data is None else replace(run.config.data, val_files=()),  # those are of its own data
        tokenizer=lambda: run.tokenizer,
        progress=progress,
    )
    check_tokenizer(tokenizer, run.tokenizer.fingerprint, where=str(run.checkpoint))
    exam = Exam(directory, manifest, tokenizer, run.config, max_tokens=tokens)
    results = examine(run, exam, open_split(directory, manifest, "train"))
    return {"run": str(run.dir.path), "checkpoint": run.checkpoint.name, "results": {"loss": results}}


def examine(run: Run, exam: Exam, train: TokenStream) -> dict[str, Any]:
    """The measures of a run, and those of the unigram model and the floor to compare with."""
    score = exam.score(run.model, device=run.device, precision=run.precision)
    unigram, floor = exam.unigram(train).measures(), exam.floor()
    measures: dict[str, Any] = score.measures()
    measures["unigram"] = {key: unigram[key] for key in ("loss", "bits_per_byte")}
    if floor is not None:
        lowest = floor.measures()
        measures["floor"] = {
            "loss": lowest["loss"],
            "bits_per_byte": lowest["bits_per_byte"],
            "ratio": measures["bits_per_byte"] / lowest["bits_per_byte"],
            "excess_share": (measures["loss"] - lowest["loss"]) / (unigram["loss"] - lowest["loss"]),
        }
    measures["scored_tokens"] = score.tokens
    return measures


def _documents(
    stream: TokenStream, tokenizer: Tokenizer, context_length: int, *, max_tokens: int
) -> list[NDArray[np.int64]]:
    documents, n_tokens = [], 0
    for start, stop in document_windows(stream, tokenizer.eos_id, context_length=context_length + 1):
        if stop - start > context_length:
            raise ConfigError(
                f"model.context_length = {context_length}: a validation story has more tokens, and stories are scored "
                f"whole; use at least {math.ceil((stop - start) / 64) * 64}"
            )
        documents.append(stream.read(start, stop).astype(np.int64))
        n_tokens += stop - start
        if max_tokens and n_tokens >= max_tokens:
            break
    return documents


def _read_blocks(stream: TokenStream) -> Iterator[NDArray]:
    last = min(stream.n_tokens, _UNIGRAM_TOKENS)
    for start in range(0, last, _BLOCK_TOKENS):
        yield stream.read(start, min(start + _BLOCK_TOKENS, last))
