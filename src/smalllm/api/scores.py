"""A validation split, and a run's score on it: against the unigram model and the stories' floor."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.config import RunConfig
from smalllm.data.batches import document_windows
from smalllm.data.manifest import Manifest
from smalllm.data.shards import TokenStream, open_split
from smalllm.data.stories import parse
from smalllm.data.windows import open_windows
from smalllm.errors import ConfigError
from smalllm.evaluation.batches import document_batches, padded_batches, sliding_windows, window_batches
from smalllm.evaluation.details import Details
from smalllm.evaluation.loss import Score, score_model
from smalllm.evaluation.unigram import count_tokens, score_unigram
from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer
from smalllm.run import Run

_COUNTED_TOKENS = 1 << 20  # read at once
_UNIGRAM_TOKENS = 100_000_000
_BLOCK_WINDOWS, _BLOCK_TOKENS = 16, 8_192  # scored at once; the smaller of both


class Exam:
    """A fixed part of the validation split, the same each time it is asked for.

    Text is scored in windows, in order, laid and masked as in training. Stories are scored whole, each from its own
    start, because their exact probability is known: the floor is minus the log-probability of the very stories that are
    scored.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        tokenizer: Tokenizer,
        config: RunConfig,
        *,
        max_tokens: int,
        stride: int | None = None,
    ) -> None:
        """Choose what to score.

        Args:
            directory: of the shards.
            manifest: of the shards.
            tokenizer: that made them.
            config: the context length, packing and document mask are used.
            max_tokens: about how many to score; 0: the whole split.
            stride: windows overlap, and each scores so many new tokens; None: they lie as in training.

        Raises:
            DataError: the split is shorter than one window.
            ConfigError: a story is longer than the context, or windows cannot overlap.
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
        self.context_length, self.stride, self.max_tokens = context_length, stride, max_tokens
        if stride is not None:
            check_stride(stride, context_length=context_length)
            if self.has_floor or config.data.packing == "padded":
                raise ConfigError("stride: documents are scored whole here, each from its own start; leave it out")

    def score(
        self,
        model: GPT,
        *,
        device: str,
        precision: str,
        details: Details | None = None,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> Score:
        """Score a model on it, or on the part of it that one of several processes has: every n-th batch.

        Args:
            model: on the device.
            device: cpu, cuda or mps.
            precision: of its matrix products.
            details: gets the parts.
            rank: of this process.
            n_ranks: how many share the work.
        """
        if self.has_floor:
            batches = document_batches(self.documents, eos_id=self.tokenizer.eos_id)
        elif self.stride is not None:
            n_tokens = min(self.stream.n_tokens, self.max_tokens + 1) if self.max_tokens else self.stream.n_tokens
            windows = sliding_windows(
                self.stream.read, n_tokens, context_length=self.context_length, stride=self.stride
            )
            batches = padded_batches(windows, fill_id=self.tokenizer.eos_id)
        else:
            batches = window_batches(self._blocks())
        return score_model(
            model,
            islice(batches, rank, None, n_ranks),
            token_byte_lengths=self.tokenizer.token_byte_lengths,
            device=device,
            precision=precision,
            eos_id=self.tokenizer.eos_id if self.document_mask else None,
            details=details,
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


def examine(run: Run, exam: Exam, train: TokenStream) -> dict[str, Any]:
    """The measures of a run in parts too, and those of the unigram model and the floor to compare with."""
    tokenizer = run.tokenizer
    details = Details(context_length=run.config.model.context_length, vocab_size=tokenizer.vocab_size)
    score = exam.score(run.model, device=run.device, precision=run.precision, details=details)
    counts = count_tokens(read_blocks(train), vocab_size=tokenizer.vocab_size)
    floor = exam.floor()
    measures: dict[str, Any] = score.measures() | details.measures()
    measures["by_frequency"] = details.by_frequency(counts)
    unigram = compare_unigram(counts, details, tokenizer)
    measures["unigram"] = unigram
    if floor is not None:
        lowest = floor.measures()
        measures["floor"] = {
            "loss": lowest["loss"],
            "bits_per_byte": lowest["bits_per_byte"],
            "ratio": measures["bits_per_byte"] / lowest["bits_per_byte"],
            "excess_share": (measures["loss"] - lowest["loss"]) / (unigram["loss"] - lowest["loss"]),
        }
    return measures | {"scored_tokens": score.tokens, "scored_bytes": score.text_bytes}


def compare_unigram(counts: NDArray[np.int64], details: Details, tokenizer: Tokenizer) -> dict[str, float]:
    """What token frequencies alone score on what was scored.

    Args:
        counts: occurrences in the training text [vocab_size].
        details: of the score; knows which tokens were scored.
        tokenizer: of both.
    """
    score = score_unigram(counts, details.tokens_of, token_byte_lengths=tokenizer.token_byte_lengths)
    return {key: score.measures()[key] for key in ("loss", "bits_per_byte")}


def check_stride(stride: int, *, context_length: int) -> None:
    """Refuse a stride that no window can have.

    Raises:
        ConfigError: it is not from 1 to the context length.
    """
    if not 1 <= stride <= context_length:
        raise ConfigError(f"stride = {stride}: must be from 1 to the context length, {context_length}")


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


def read_blocks(stream: TokenStream) -> Iterator[NDArray]:
    """The first 100 million tokens of a split, in pieces: those whose frequencies are counted."""
    last = min(stream.n_tokens, _UNIGRAM_TOKENS)
    for start in range(0, last, _COUNTED_TOKENS):
        yield stream.read(start, min(start + _COUNTED_TOKENS, last))
