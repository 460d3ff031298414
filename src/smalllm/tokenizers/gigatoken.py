"""The same ids many times sooner: the gigatoken library, where it is installed, watched by the one it stands in for.

It has pre-tokenizers of its own in place of a regular expression, and keeps the ids of words it has met. It is young,
so it is not trusted: it has to give the reference's ids on the whole of the first batch of the text at hand, else the
reference does all the work; and from then on on one text of each batch, else encoding stops with an error. Texts with
characters that this Python's Unicode does not know always go to the reference: libraries disagree about their class.

Source: Rød 2026, github.com/marcelroed/gigatoken.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import TokenizerError

EncodeEach = Callable[[Sequence[str]], list[NDArray[Any]]]
EncodeOne = Callable[[str], NDArray[Any]]

WATCHED_CHARACTERS = 16_384
"""How long the text of each batch is, at most, that both libraries encode; where all are longer, a piece of one."""


def watched(
    load: Callable[[], EncodeOne], reference: EncodeEach, *, leave: Callable[[str], bool] = lambda text: False
) -> EncodeEach:
    """`reference`, or where gigatoken is installed the same ids sooner.

    Args:
        load: makes gigatoken's encoder of the same vocabulary; called at most once, when there is text to encode.
        reference: what defines the ids.
        leave: texts that are always the reference's.
    """
    return Watched(load, reference, leave) if is_installed() else reference


def is_installed() -> bool:
    """Whether the extra is there."""
    return find_spec("gigatoken") is not None


def load_tiktoken_file(content: bytes, *, name: str) -> EncodeOne:
    """Gigatoken's encoder of a `.tiktoken` file with GPT-2's pattern; it wants the file on a disk."""
    from gigatoken.gigatoken_rs import BPETokenizer

    with TemporaryDirectory(prefix="smalllm-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return _encoder(BPETokenizer.from_tiktoken(str(path), "gpt2", {}))


def load_tokenizer_json(content: bytes) -> EncodeOne:
    """Gigatoken's encoder of a Hugging Face `tokenizer.json`."""
    from gigatoken.gigatoken_rs import load_hf_json

    return _encoder(load_hf_json(content))


def load_sentencepiece_model(content: bytes) -> EncodeOne:
    """Gigatoken's encoder of a SentencePiece model."""
    from gigatoken import Tokenizer

    return _encoder(Tokenizer.from_sentencepiece(content))


def _encoder(backend: Any) -> EncodeOne:
    return lambda text: backend.encode(text)


@dataclass(slots=True)
class Watched:
    """An encoder that stands in for `reference` once it is proved; see `watched`."""

    load: Callable[[], EncodeOne]
    reference: EncodeEach
    leave: Callable[[str], bool]
    fast: EncodeOne | None = None
    is_tried: bool = False
    n_batches: int = 0
    lock: Lock = field(default_factory=Lock)

    def __call__(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        with self.lock:  # threads of a stream share this
            if not self.is_tried and texts:
                self.is_tried = True
                return self._try(texts)
        if self.fast is None:
            return self.reference(texts)
        self.n_batches += 1
        self._watch(self.fast, texts[self.n_batches % len(texts)] if texts else "")
        return [self.reference([text])[0] if self._is_left(text) else self.fast(text) for text in texts]

    def _try(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        expected = self.reference(texts)
        try:
            fast = self.load()
            found = [ids if self._is_left(text) else fast(text) for text, ids in zip(texts, expected, strict=True)]
        except BaseException:  # a vocabulary it cannot read, a version of it with other names, a panic in Rust
            return expected
        if all(map(np.array_equal, found, expected)):
            self.fast = fast
        return expected

    def _is_left(self, text: str) -> bool:
        return _is_new(text) or self.leave(text)

    def _watch(self, fast: EncodeOne, text: str) -> None:
        start = self.n_batches * WATCHED_CHARACTERS % max(1, len(text))
        sample = text[start : start + WATCHED_CHARACTERS]
        if not self._is_left(sample) and not np.array_equal(fast(sample), self.reference([sample])[0]):
            raise TokenizerError(
                f"gigatoken does not give the reference's ids for the text {sample[:60]!a}, though it did before; what "
                "was encoded so far may be wrong. Uninstall it (pip uninstall gigatoken), delete what was written, "
                "and begin again"
            )


def _is_new(text: str) -> bool:
    """Whether the text has a character without a meaning in this Python's Unicode."""
    return not text.isascii() and bool(_unassigned()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())


@functools.cache
def _unassigned() -> NDArray[np.bool_]:
    return np.array([unicodedata.category(chr(i)) in ("Cn", "Cs") for i in range(0x110000)])
