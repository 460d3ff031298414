"""GPT-2's byte-level BPE, by tiktoken: 50,257 ids, of which 50256 ends a document.

Not a trainer: the vocabulary is OpenAI's. Ids equal those of `tiktoken.get_encoding("gpt2")` with one
exception: tiktoken 0.14 fails on a run of a million whitespace characters, so a run longer than
`MAX_WHITESPACE_RUN` is cut into stretches of that length. Long runs of anything else take near-linear time in
tiktoken itself (0.13 and later).

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and its `encoder.py`.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import TokenizerError
from smalllm.tokenizers import gigatoken
from smalllm.tokenizers.text_tokenizer import TextTokenizer, read_vocabulary_file

if TYPE_CHECKING:
    import tiktoken

EOS = "<|endoftext|>"
EOS_ID = 50_256
MAX_WHITESPACE_RUN = 500_000
"""The longest run of whitespace handed to tiktoken [characters]."""

SAVED_NAME = "gpt2.tiktoken"
# OpenAI's and Hugging Face's names for the same two files.
VOCABULARY_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))

# GPT-2's pattern, with possessive quantifiers where they change no match: less backtracking, the same pieces.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

_WHITESPACE = re.compile(r"\s+")
_WHAT_TO_DO = (
    "pass --tokenizer.path FOLDER with OpenAI's encoder.json and vocab.bpe "
    "(or Hugging Face's vocab.json and merges.txt) in it"
)


def load_gpt2(path: Path | None) -> TextTokenizer:
    """GPT-2's tokenizer, from a folder or, without one, from tiktoken's cache or download.

    Args:
        path: a folder with `gpt2.tiktoken` (as saved by smalllm), or `encoder.json` and `vocab.bpe`, or
            `vocab.json` and `merges.txt`; None asks tiktoken.

    Raises:
        TokenizerError: the files are missing, damaged or not GPT-2's size, or tiktoken cannot get them.
    """
    import tiktoken

    tokens = _tokens_from_tiktoken() if path is None else _tokens_from_folder(path)
    _check_tokens(tokens, path=path)
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={EOS: EOS_ID},
    )
    content = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
    return TextTokenizer(
        kind="gpt2",
        eos_id=EOS_ID,
        token_bytes=(*tokens, b""),
        file_name=SAVED_NAME,
        content=content,
        encode_one=partial(_encode, encoding),
        encode_many=partial(_encode_many, encoding),
        encode_each=gigatoken.watched(
            partial(gigatoken.load_tiktoken_file, content, name=SAVED_NAME),
            partial(_encode_each, encoding),
            leave=_may_be_cut,
        ),
    )


def _check_tokens(tokens: list[bytes], *, path: Path | None) -> None:
    different = set(tokens)
    if len(tokens) == len(different) == EOS_ID and all(bytes([i]) in different for i in range(256)):
        return
    raise TokenizerError(
        f"the GPT-2 vocabulary{'' if path is None else f' in {path}'} has {len(different):,} different "
        f"tokens; GPT-2 has {EOS_ID:,}, every single byte among them. {_sentence(_WHAT_TO_DO)}"
    )


def _encode(encoding: "tiktoken.Encoding", text: str) -> list[int]:
    if len(text) <= MAX_WHITESPACE_RUN:
        return encoding.encode_ordinary(text)
    return [i for part in _cut_whitespace(text) for i in encoding.encode_ordinary(part)]


def _encode_many(encoding: "tiktoken.Encoding", texts: Sequence[str]) -> list[list[int]]:
    if any(len(text) > MAX_WHITESPACE_RUN for text in texts):
        return [_encode(encoding, text) for text in texts]
    return encoding.encode_ordinary_batch(list(texts), num_threads=os.cpu_count() or 1)


def _encode_each(encoding: "tiktoken.Encoding", texts: Sequence[str]) -> list[NDArray[np.uint32]]:
    # No list of Python integers in between: about a tenth less time. The names of special tokens are text.
    encode = partial(encoding.encode_to_numpy, disallowed_special=())
    return [
        encode(text) if len(text) <= MAX_WHITESPACE_RUN else np.concatenate([*map(encode, _cut_whitespace(text))])
        for text in texts
    ]


def _may_be_cut(text: str) -> bool:
    """Whether a run of whitespace may be longer than `MAX_WHITESPACE_RUN`: one that is covers two of these places."""
    every = MAX_WHITESPACE_RUN // 2
    return any(text[i].isspace() and text[i + every].isspace() for i in range(0, len(text) - every, every))


def _cut_whitespace(text: str) -> Iterator[str]:
    start = 0
    for run in _WHITESPACE.finditer(text):
        for end in range(run.start() + MAX_WHITESPACE_RUN, run.end(), MAX_WHITESPACE_RUN):
            yield text[start:end]
            start = end
    yield text[start:]


def _tokens_from_tiktoken() -> list[bytes]:
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # requests, urllib3, ssl, OSError, ValueError: whatever the way to the files raises
        raise TokenizerError(
            f"tiktoken could not load the GPT-2 vocabulary ({type(error).__name__}); it needs the internet "
            f"once, or its cache. Without either, {_WHAT_TO_DO}"
        ) from error
    return [encoding.decode_single_token_bytes(rank) for rank in range(encoding.n_vocab - 1)]


def _tokens_from_folder(path: Path) -> list[bytes]:
    if (path / SAVED_NAME).is_file():
        return _parse_saved(read_vocabulary_file(path / SAVED_NAME), name=str(path / SAVED_NAME))
    for encoder_name, merges_name in VOCABULARY_PAIRS:
        if (path / encoder_name).is_file() and (path / merges_name).is_file():
            return _parse_pair(path / encoder_name, path / merges_name)
    raise TokenizerError(f"{path} holds no GPT-2 vocabulary; {_WHAT_TO_DO}")


def _parse_saved(content: bytes, *, name: str) -> list[bytes]:
    tokens = []
    for rank, line in enumerate(content.splitlines()):
        word, _, number = line.partition(b" ")
        try:
            tokens.append(base64.b64decode(word, validate=True))
        except binascii.Error:
            number = b""
        if number != b"%d" % rank:
            raise TokenizerError(
                f"{name}, line {rank + 1}: expected a base64 token and the rank {rank}; the file is damaged, "
                "copy or prepare it again"
            )
    return tokens


def _parse_pair(encoder_path: Path, merges_path: Path) -> list[bytes]:
    """Read GPT-2's two files, and check that they belong together: merge n makes the token of id 256 + n."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    try:
        encoder: dict[str, int] = json.loads(read_vocabulary_file(encoder_path))
        encoder.pop(EOS, None)
        merges = read_vocabulary_file(merges_path).decode("utf-8").split("\n")
        pairs = [line.split(" ") for line in merges if line and not line.startswith("#version")]
        ordered = sorted(encoder, key=encoder.__getitem__)
        if [encoder[word] for word in ordered] != list(range(256 + len(pairs))):
            raise ValueError("the ids do not run from 0 to the number of merges + 255")
        if ordered[256:] != ["".join(pair) for pair in pairs]:
            raise ValueError("the merges make other tokens, or in another order")
        return [bytes(byte_of[character] for character in word) for word in ordered]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{encoder_path} and {merges_path.name} are not one GPT-2 vocabulary ({error}); {_WHAT_TO_DO}"
        ) from error


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE files write for each of the 256 bytes.

    Printable bytes of Latin-1 stand for themselves; the other 68 take U+0100 and on, in order.

    Source: GPT-2's `encoder.py`, `bytes_to_unicode`.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
