"""SentencePiece: a byte-fallback BPE vocabulary trained on the user's text, or a model of the user's own.

Trained models change nothing in the text (identity normalisation, no dummy prefix, every space kept), so
every string round-trips. Not here: sampling, user-defined symbols beyond the newline, Unigram training.

Source: Kudo & Richardson 2018, "SentencePiece", arXiv:1808.06226.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalllm.errors import TokenizerError
from smalllm.tokenizers import gigatoken
from smalllm.tokenizers.text_tokenizer import (
    MARKER,
    TextTokenizer,
    check_lossless,
    encode_around_marker,
    find_loss,
    read_vocabulary_file,
    training_texts,
)

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SAVED_NAME = "tokenizer.model"
N_RESERVED = 259  # 256 bytes, <unk>, </s> and the newline
MAX_LINE_CHARACTERS = 4096  # at most 4 bytes each, so below MAX_SENTENCE_BYTES
MAX_SENTENCE_BYTES = 1 << 16  # sentencepiece silently drops a longer line
TRAINING_OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "character_coverage": 1.0,
    "split_by_unicode_script": True,
    "split_by_number": True,
    "split_by_whitespace": True,
    "allow_whitespace_only_pieces": True,  # indentation of source code
    "user_defined_symbols": ["\n"],
    "unk_id": 0,
    "eos_id": 1,
    "bos_id": -1,
    "pad_id": -1,
    "input_sentence_size": 0,  # every line, in order
    "shuffle_input_sentence": False,
    "max_sentence_length": MAX_SENTENCE_BYTES,
    "num_threads": 1,
    "minloglevel": 2,
}
EOS_NAMES = ("</s>", "<|endoftext|>", "<eos>")

_HINT = (
    "Train one with --normalization_rule_name=identity --add_dummy_prefix=false "
    "--remove_extra_whitespaces=false --byte_fallback=true, or leave --tokenizer.path out to train here"
)


def train_sentencepiece(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """Train a byte-fallback BPE on the first `MAX_TRAINING_BYTES` of the texts.

    Deterministic, on one thread: sentencepiece's BPE trainer gains nothing from more, and writes their number
    into the model. Of the characters, the most frequent `vocab_size // 4` become pieces; rarer ones are left
    to the byte tokens, so that a text with thousands of different characters fits a small vocabulary.

    Args:
        texts: documents, any number and length.
        vocab_size: how many ids the result has.

    Raises:
        TokenizerError: there is no text, or too little of it for `vocab_size` different pieces.
    """
    from sentencepiece import SentencePieceTrainer

    if vocab_size <= N_RESERVED:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; a SentencePiece vocabulary starts with {N_RESERVED} reserved ids. "
            f"Use --tokenizer.vocab_size {N_RESERVED + 1} or more, or --tokenizer.kind bytes"
        )
    lines = _training_lines(list(training_texts(texts)), n_characters=min(vocab_size // 4, vocab_size - N_RESERVED - 1))
    model = io.BytesIO()
    try:
        SentencePieceTrainer.Train(
            sentence_iterator=lines,
            model_writer=model,
            vocab_size=vocab_size,
            **TRAINING_OPTIONS,
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size=vocab_size) from error
    return _build(model.getvalue(), name="the trained SentencePiece model")


def load_sentencepiece(path: Path, *, allow_loss: bool = False) -> TextTokenizer:
    """Read a SentencePiece model, smalllm's or the user's own.

    Args:
        path: a `.model` file, or a folder with `tokenizer.model`.
        allow_loss: take one that changes text, such as a space put in front, as it is: the ids are sentencepiece's.

    Raises:
        TokenizerError: no such file, not a SentencePiece model, one that loses text or has no end token.
    """
    file = path / SAVED_NAME if path.is_dir() else path
    return _build(read_vocabulary_file(file), name=str(file), allow_loss=allow_loss)


def _training_lines(texts: list[str], *, n_characters: int) -> Iterator[str]:
    """Lines for the trainer: short enough to be kept, without the characters left to the byte tokens.

    Those are replaced by line ends, as no piece crosses one.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    # U+2585 and NUL would make the trainer drop the line; U+2581 would be counted as a space.
    for reserved in ("\0", "\u2585", MARKER, "\n", " "):
        counts.pop(reserved, None)
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    left_out = dict.fromkeys(map(ord, ["\0", "\u2585", MARKER, *by_frequency[n_characters:]]), "\n")
    for text in texts:
        for line in text.translate(left_out).split("\n"):
            for start in range(0, len(line), MAX_LINE_CHARACTERS):
                yield line[start : start + MAX_LINE_CHARACTERS]


def _training_error(message: str, *, vocab_size: int) -> TokenizerError:
    if largest := re.search(r"value <= (\d+)", message):
        return TokenizerError(
            f"the text is too small for a SentencePiece vocabulary of {vocab_size:,}: it allows at most "
            f"{int(largest[1]):,}. Use --tokenizer.vocab_size {largest[1]}, or more text"
        )
    if "!sentences_.empty()" in message:
        return TokenizerError(
            "no text was given to train a SentencePiece vocabulary on; name files, or --tokenizer.path"
        )
    return TokenizerError(
        f"sentencepiece could not train a vocabulary of {vocab_size:,}: {message}. Try another --tokenizer.vocab_size"
    )


def _build(model: bytes, *, name: str, allow_loss: bool = False) -> TextTokenizer:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise TokenizerError(
            f"{name} is not a SentencePiece model ({error}); expected the .model file that spm_train writes"
        ) from error
    byte_ids = {int(processor.IdToPiece(i)[3:5], 16): i for i in range(len(processor)) if processor.IsByte(i)}
    if len(byte_ids) != 256:
        raise TokenizerError(f"{name} has no byte fallback: characters outside its vocabulary are lost. {_HINT}")
    specials = [i for i in range(len(processor)) if processor.IsControl(i) or processor.IsUnknown(i)]
    tokenizer = TextTokenizer(
        kind="sentencepiece",
        eos_id=_eos_id(processor, specials, name=name),
        token_bytes=tuple(_piece_bytes(processor, i) for i in range(len(processor))),
        file_name=SAVED_NAME,
        content=model,
        **_encoders(processor, [byte_ids[byte] for byte in MARKER.encode()]),
    )
    spellings = [processor.IdToPiece(i) for i in specials]
    if not allow_loss:
        check_lossless(tokenizer, name=name, spellings=spellings, hint=_HINT)
    elif loss := find_loss(tokenizer, spellings=spellings):
        # Whole texts: a space goes in front of each, and not of what follows a U+2581 in it.
        return replace(tokenizer, loss=loss, **_encoders(processor, []))
    return tokenizer


def _encoders(processor: "SentencePieceProcessor", marker_ids: list[int]) -> dict[str, Any]:
    one = partial(_encode, processor, marker_ids)
    names = [processor.IdToPiece(i) for i in range(len(processor)) if processor.IsControl(i) or processor.IsUnknown(i)]
    each = gigatoken.watched(
        partial(gigatoken.load_sentencepiece_model, processor.serialized_model_proto()),
        lambda texts: [np.array(one(text), np.uint32) for text in texts],
        leave=lambda text: any(name in text for name in (MARKER, *names)),  # gigatoken takes a spelling for the token
    )
    return {"encode_one": one, "encode_many": partial(_encode_many, processor, marker_ids), "encode_each": each}


def _eos_id(processor: "SentencePieceProcessor", specials: list[int], *, name: str) -> int:
    named = {processor.IdToPiece(i): i for i in specials}
    found = [processor.eos_id(), *(named[eos] for eos in EOS_NAMES if eos in named)]
    for i in found:
        if i >= 0:
            return i
    raise TokenizerError(
        f"{name} has no token that ends a document; expected eos_id, or one of {', '.join(EOS_NAMES)} as a "
        "control symbol. Train it with --eos_id=1"
    )


def _piece_bytes(processor: "SentencePieceProcessor", i: int) -> bytes:
    piece: str = processor.IdToPiece(i)
    if processor.IsControl(i) or processor.IsUnknown(i):
        return b""
    return bytes([int(piece[3:5], 16)]) if processor.IsByte(i) else piece.replace(MARKER, " ").encode()


def _encode(processor: "SentencePieceProcessor", marker_ids: list[int], text: str) -> list[int]:
    if not marker_ids or MARKER not in text:
        ids: list[int] = processor.EncodeAsIds(text)
        return ids
    return encode_around_marker([text], lambda parts: [processor.EncodeAsIds(p) for p in parts], marker_ids=marker_ids)[
        0
    ]


def _encode_many(processor: "SentencePieceProcessor", marker_ids: list[int], texts: Sequence[str]) -> list[list[int]]:
    return encode_around_marker(texts, partial(processor.EncodeAsIds, num_threads=-1), marker_ids=marker_ids)
