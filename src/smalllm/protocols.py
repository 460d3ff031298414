"""What the rooms of the house expect of each other, as structural types. Nothing here does anything."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Encoded(NamedTuple):
    """The token ids of several texts, one text after the other.

    Attributes:
        ids: all of them [total], integers of any type.
        counts: how many each text has [texts].
    """

    ids: NDArray[Any]
    counts: NDArray[np.int64]


EncodeAll = Callable[[Iterable[Sequence[bytes]]], Iterator[Encoded]]
"""Batches of texts in UTF-8 to the ids of each batch, in order; batches may be taken before they are needed."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, without loss: `decode(encode(text)) == text` for every Unicode string.

    Ids run from 0 to `vocab_size - 1`. `encode` never produces a special token, whatever the text says:
    `<|endoftext|>` in a document is text. The end-of-document token `eos_id` is added by whoever joins documents.
    Only a tokenizer that came with an imported model may do otherwise, as its `is_lossless` says.
    """

    @property
    def kind(self) -> str:
        """The name `[tokenizer] kind` gives it: gpt2, sentencepiece, huggingface or bytes."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special ones included."""
        ...

    @property
    def eos_id(self) -> int:
        """The token that ends a document; as the first token of an input it also starts one."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 [64 hex digits] of what decides the ids; equal fingerprints give equal ids."""
        ...

    @property
    def is_quick(self) -> bool:
        """Whether `encode_arrays` takes less time than handing the text to another process; known after its first."""
        ...

    @property
    def is_lossless(self) -> bool:
        """Whether `decode(encode(text)) == text` for every text."""
        ...

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The UTF-8 bytes each id stands for; empty for special tokens. `decode` joins them."""
        ...

    @property
    def token_byte_lengths(self) -> NDArray[np.int64]:
        """`len` of each of `token_bytes` [bytes]: counts the text of any subset of tokens exactly."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of one text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, by the fastest path there is; equal to encoding each alone."""
        ...

    def encode_arrays(self, texts: Sequence[str]) -> Encoded:
        """The same ids in one array, by one thread: the fastest path where many processes encode side by side."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids; special tokens vanish, bytes that are not UTF-8 become U+FFFD."""
        ...

    def save(self, directory: Path) -> None:
        """Write what rebuilds this tokenizer offline into `directory`, which is created if absent."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Who is told how an act goes: the command line draws it, Python callers may ignore it."""

    def begin(self, what: str, *, total: int, done: int = 0) -> None:
        """An act of `total` steps starts, `done` of which were done before."""
        ...

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics was written (see `rundir`)."""
        ...

    def advance(self, done: int, note: str = "") -> None:
        """`done` steps of the act are done."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line: a notice, a sample, a result."""
        ...

    def end(self) -> None:
        """The act is over."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def begin(self, what: str, *, total: int, done: int = 0) -> None:
        """Nothing."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def advance(self, done: int, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run."""

    project: str
    """What the run is filed under."""
    name: str
    """What people call it."""
    id: str
    """Its own, the same in every sitting [8 hex digits]."""
    is_continued: bool
    """Whether the tracker has rows of an earlier sitting."""
    folder: Path
    """A place in the run directory for the tracker's files."""
    config: Mapping[str, float | str]
    """The run's configuration under dotted names."""
    notice: Callable[[str], None]
    """Says a line to whoever watches the run."""


@runtime_checkable
class Tracker(Protocol):
    """Shows a run somewhere else. Whatever it raises or however long it takes, the run does not notice."""

    def begin(self, run: TrackedRun) -> None:
        """Open the run, or go on with it."""
        ...

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Show numbers (`train/loss`, `val/bits_per_byte`) and texts (`sample/0`) of a step."""
        ...

    def end(self) -> None:
        """The run is over, or rests."""
        ...
