"""The one tokenizer class, and what the four kinds share: markers, the lossless probe, the training text.

A kind (gpt2.py, sentencepiece.py, huggingface.py, bytes.py) is a few functions that fill in a
`TextTokenizer`.
Nothing here knows a vocabulary or a file format.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import TokenizerError
from smalllm.protocols import Encoded
from smalllm.tokenizers.gigatoken import Watched

MARKER = "\u2581"
"""The character that SentencePiece-style vocabularies write for a space; in text it needs care."""

MAX_TRAINING_BYTES = 20_000_000
"""How much text a trained vocabulary is made from [bytes]; more costs memory and time."""

PROBES = (
    "a  b   c ",
    "cafe\u0301",
    " leading",
    "\tif x:\n\t\treturn 1\n\n\n",
    "one\r\ntwo\rthree\n",
    "MiXeD Case",
    "caf\u00e9 cafe\u0301 \u0301 \u212b \ufb01 \uff21 \u2460",
    "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f469\u200d\U0001f680",
    "\U00050000\U00090000\U000d0000\U0010ffff",
    "\x00\x07\x7f\ufeff\u200b\u00a0\u3000",
    f"{MARKER}{MARKER}a {MARKER} b{MARKER}",
    "<s></s><unk><0x0A>[UNK]<|endoftext|>",
    "x" * 300,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TextTokenizer:
    """A vocabulary and the two functions that encode with it; satisfies `smalllm.protocols.Tokenizer`.

    Attributes:
        kind: gpt2, sentencepiece, huggingface or bytes.
        eos_id: the token that ends a document.
        token_bytes: the UTF-8 bytes each id stands for; empty for special tokens.
        file_name: the file `save` writes; None where there is nothing to write.
        content: the bytes of that file, and what the fingerprint is taken over.
        encode_one: text to ids; the caller uses `encode`.
        encode_many: texts to ids by the library's own threads; the caller uses `encode_batch`.
        loss: what it changes, an example; empty where every text comes back. Only tokenizers of imported models
            have one: their ids are those the model was trained on, so `decode(encode("Hello"))` may be " Hello".
        encode_each: the same as arrays and by one thread, where that is quicker than `encode_one` text by text; the
            caller uses `encode_arrays`.
    """

    kind: str
    eos_id: int
    token_bytes: tuple[bytes, ...]
    file_name: str | None
    content: bytes
    encode_one: Callable[[str], list[int]]
    encode_many: Callable[[Sequence[str]], list[list[int]]]
    loss: str = ""
    encode_each: Callable[[Sequence[str]], list[NDArray[Any]]] | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} tokenizer, {self.vocab_size:,} ids, {self.fingerprint[:12]}>"

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special ones included."""
        return len(self.token_bytes)

    @property
    def is_lossless(self) -> bool:
        """Whether `decode(encode(text)) == text` for every text."""
        return not self.loss

    @property
    def is_quick(self) -> bool:
        """Whether `encode_arrays` takes less time than handing the text to another process."""
        return isinstance(self.encode_each, Watched) and self.encode_each.fast is not None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 [64 hex digits] of `content`."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def token_byte_lengths(self) -> NDArray[np.int64]:
        """The length of each of `token_bytes` [bytes]."""
        return np.array([len(token) for token in self.token_bytes], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """The ids of one text; no special ones."""
        return self.encode_one(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, equal to encoding each alone."""
        return self.encode_many(texts)

    def encode_arrays(self, texts: Sequence[str]) -> Encoded:
        """The ids of many texts in one array, by one thread."""
        arrays = (
            self.encode_each(texts) if self.encode_each else [np.array(self.encode_one(t), np.uint32) for t in texts]
        )
        counts = np.array([len(ids) for ids in arrays], dtype=np.int64)
        return Encoded(np.concatenate(arrays) if arrays else np.empty(0, np.uint16), counts)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids; special tokens vanish, bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self.token_bytes[i] for i in token_ids]).decode("utf-8", errors="replace")

    def save(self, directory: Path) -> None:
        """Write the vocabulary file into `directory`; `smalllm.tokenizers.save_tokenizer` adds the record."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.file_name is not None:
            (directory / self.file_name).write_bytes(self.content)


def encode_around_marker(
    texts: Sequence[str],
    encode_many: Callable[[list[str]], list[list[int]]],
    *,
    marker_ids: Sequence[int],
) -> list[list[int]]:
    """Encode texts with a vocabulary in which U+2581 means a space, so that a real U+2581 stays one.

    Each U+2581 becomes the tokens of its own bytes and what stands between is encoded alone. Pieces never
    contain a real U+2581, so the ids on both sides are those of the uncut text.

    Args:
        texts: any texts.
        encode_many: encodes texts that hold no U+2581.
        marker_ids: the byte tokens of U+2581; none leaves it to the vocabulary, which takes it for a space.
    """
    if not marker_ids or not any(MARKER in text for text in texts):
        return encode_many(list(texts))
    parts = [text.split(MARKER) for text in texts]
    encoded = iter(encode_many([part for text_parts in parts for part in text_parts]))
    ids: list[list[int]] = []
    for text_parts in parts:
        joined = list(next(encoded))
        for _ in text_parts[1:]:
            joined += [*marker_ids, *next(encoded)]
        ids.append(joined)
    return ids


def check_lossless(tokenizer: TextTokenizer, *, name: str, spellings: Iterable[str], hint: str) -> None:
    """Refuse a tokenizer that changes text or turns the spelling of a special token into that token.

    Args:
        tokenizer: the one to try.
        name: its file, for the message.
        spellings: how its special tokens are written.
        hint: what the user can do about a refusal, one sentence.

    Raises:
        TokenizerError: a text came back changed, or as a special token.
    """
    if loss := find_loss(tokenizer, spellings=spellings):
        raise TokenizerError(
            f"{name}: the text {loss}; smalllm needs a tokenizer that takes any text as text and loses nothing. {hint}"
        )


def find_loss(tokenizer: TextTokenizer, *, spellings: Iterable[str]) -> str:
    """The first text that a tokenizer changes and what becomes of it, in words; empty where it changes none.

    Encodes and decodes awkward strings, every character up to U+FFFF and the vocabulary's own special names.

    Args:
        tokenizer: the one to try.
        spellings: how its special tokens are written.
    """
    words = list(spellings)
    for text in (*PROBES, *(f"a {word} b{word}" for word in words), *words, *_every_character()):
        ids = tokenizer.encode(text)
        if any(not tokenizer.token_bytes[i] for i in ids):
            return f"{_shown(text)} encodes to a special or unknown token"
        if (decoded := tokenizer.decode(ids)) != text:
            return f"{_shown(text)} comes back as {_shown(decoded)}"
    return ""


def training_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts, up to `MAX_TRAINING_BYTES` together; the one that crosses the limit is cut."""
    left_bytes = MAX_TRAINING_BYTES
    for text in texts:
        encoded = text.encode("utf-8")
        if len(encoded) >= left_bytes:
            yield encoded[:left_bytes].decode("utf-8", errors="ignore")
            return
        left_bytes -= len(encoded)
        yield text


def read_vocabulary_file(path: Path) -> bytes:
    """The bytes of a tokenizer file.

    Raises:
        TokenizerError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"the tokenizer file {path} cannot be read ({error.strerror}); check the path given as --tokenizer.path"
        ) from error


def _every_character() -> Iterator[str]:
    # 256 at a time: short enough to show, and a long text would hide which character was lost.
    for start in range(0, 0x10000, 256):
        text = "".join(chr(i) for i in range(start, start + 256) if not 0xD800 <= i <= 0xDFFF)
        if text:
            yield text


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
