"""A Hugging Face `tokenizer.json`: the user's own where it is lossless, or a byte-level BPE trained here.

Byte-level and byte-fallback vocabularies are accepted; WordPiece, lower-casing and other normalisation lose
text and are refused (`allow_loss`: all but WordPiece and the like, for models that were trained so). Not here: chat
templates, post-processors, padding and truncation (all switched off).
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import TokenizerError
from smalllm.tokenizers import gigatoken
from smalllm.tokenizers.gpt2 import byte_characters
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
    from tokenizers import Tokenizer

SAVED_NAME = "tokenizer.json"
EOS_NAMES = (
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|eos|>",
    "<|im_end|>",
    "[EOS]",
    "<EOS>",
    "<end_of_text>",
)
MIN_PAIR_COUNT = 2  # a pair seen once is no pattern

_HINT = (
    "Use a byte-level tokenizer (GPT-2's, Llama 3's) or one with byte fallback and no normaliser, "
    "or leave --tokenizer.path out and smalllm trains one"
)
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def train_huggingface(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenizer on the first `MAX_TRAINING_BYTES` of the texts.

    Args:
        texts: documents, any number and length.
        vocab_size: how many ids the result has, `<|endoftext|>` (id 0) included.

    Raises:
        TokenizerError: the text has too few pairs of tokens for `vocab_size`, or `vocab_size` is below 257.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; a byte-level vocabulary has 256 bytes and an end token. "
            "Use --tokenizer.vocab_size 257 or more"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        special_tokens=[EOS_NAMES[0]],
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    backend.train_from_iterator(training_texts(texts), trainer)
    if (largest := backend.get_vocab_size()) < vocab_size:
        raise TokenizerError(
            f"the text is too small for a byte-level BPE vocabulary of {vocab_size:,}: it allows at most "
            f"{largest:,}. Use --tokenizer.vocab_size {largest}, or more text"
        )
    return _build(json.loads(backend.to_str()), name="the trained tokenizer.json")


def load_huggingface(path: Path, *, eos: Sequence[str | int] = (), allow_loss: bool = False) -> TextTokenizer:
    """Read a `tokenizer.json`, smalllm's or the user's own.

    Args:
        path: the file, or a folder with `tokenizer.json`.
        eos: what may be its end token before `EOS_NAMES` are tried: names, or ids of special tokens.
        allow_loss: take one that changes text, by a normaliser or a space put in front, as it is: the ids are
            those of the tokenizers library, for a U+2581 in text too.

    Raises:
        TokenizerError: no such file, not a tokenizer, one that loses text, or one without a known end token.
    """
    file = path / SAVED_NAME if path.is_dir() else path
    try:
        spec = json.loads(read_vocabulary_file(file))
    except ValueError as error:
        raise TokenizerError(
            f"{file} is not JSON ({error}); expected the tokenizer.json of a Hugging Face fast tokenizer"
        ) from error
    return _build(spec, name=str(file), eos=eos, allow_loss=allow_loss)


def _build(spec: Any, *, name: str, eos: Sequence[str | int] = (), allow_loss: bool = False) -> TextTokenizer:
    content, eos_name = _canonical(spec, name=name, eos=eos)
    backend = _backend(content, name=name)
    byte_level = _has_byte_level(spec)
    hint = "A model with this tokenizer cannot be imported" if allow_loss else f"{_because(spec)}{_HINT}"
    marker_ids = [] if byte_level else _marker_ids(backend, spec, name=name, hint=hint)
    if allow_loss:
        marker_ids = []
    tokenizer = TextTokenizer(
        kind="huggingface",
        eos_id=backend.get_vocab(with_added_tokens=True)[eos_name],
        token_bytes=_token_bytes(backend, byte_level=byte_level),
        file_name=SAVED_NAME,
        content=content,
        encode_one=partial(_encode, backend, marker_ids),
        encode_many=partial(_encode_many, backend, marker_ids),
        encode_each=gigatoken.watched(
            partial(_load_gigatoken, spec), partial(_encode_each, backend, marker_ids), leave=_has_marker
        ),
    )
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    if allow_loss:
        return replace(tokenizer, loss=find_loss(tokenizer, spellings=added))
    check_lossless(tokenizer, name=name, spellings=added, hint=hint)
    return tokenizer


def _canonical(spec: Any, *, name: str, eos: Sequence[str | int]) -> tuple[bytes, str]:
    """The file as saved: keys sorted, nothing that cuts, pads or skips merges; and its end token."""
    try:
        eos_name = _make_eos_special(spec, name=name, eos=eos)
        spec |= {"truncation": None, "padding": None}
        if "dropout" in spec["model"]:
            spec["model"]["dropout"] = None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TokenizerError(
            f"{name} is JSON, but without the added_tokens and model.vocab of a Hugging Face fast tokenizer; "
            "expected its tokenizer.json. Check that it is the right file"
        ) from error
    return json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(), eos_name


def _backend(content: bytes, *, name: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception for all that it cannot read
        raise TokenizerError(
            f"{name} is not a tokenizer that the installed tokenizers package can read ({error}); expected "
            "the tokenizer.json of a Hugging Face fast tokenizer. Check the file, or update tokenizers"
        ) from error


def _make_eos_special(spec: Any, *, name: str, eos: Sequence[str | int]) -> str:
    """Find the end token, and list it as special where the file does not, so that no text encodes to it."""
    added = {token["content"]: token for token in spec["added_tokens"]}
    special = {token.get("id"): content for content, token in added.items() if token.get("special")}
    vocab = spec["model"]["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    declared: list[str] = [special.get(i, "") if isinstance(i, int) else i for i in eos]
    for eos_name in (*declared, *EOS_NAMES):
        if eos_name in added:
            added[eos_name]["special"] = True
            return eos_name
        if eos_name in ids:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            spec["added_tokens"].append({"id": ids[eos_name], "content": eos_name, "special": True, **flags})
            spec["added_tokens"].sort(key=lambda token: token["id"])
            return eos_name
    raise TokenizerError(
        f"{name} has no token that ends a document; expected one of {', '.join(EOS_NAMES)}. "
        "Add one of them to its added_tokens (for an import, or name its own as eos_token in tokenizer_config.json), "
        "or leave --tokenizer.path out and smalllm trains a tokenizer"
    )


def _has_byte_level(spec: Any) -> bool:
    before = spec.get("pre_tokenizer") or {}
    return any(step.get("type") == "ByteLevel" for step in (before, *before.get("pretokenizers", ())))


def _marker_ids(backend: "Tokenizer", spec: Any, *, name: str, hint: str) -> list[int]:
    found = [backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    ids = [i for i in found if i is not None]
    if not spec["model"].get("byte_fallback") or len(ids) < 256:
        raise TokenizerError(
            f"{name} is a {spec['model'].get('type')} tokenizer without bytes: characters outside its "
            f"vocabulary are lost. {hint}"
        )
    return [ids[byte] for byte in MARKER.encode()]


def _because(spec: Any) -> str:
    normalizer = spec.get("normalizer")
    return f"Its normaliser ({normalizer['type']}) is a likely cause. " if normalizer else ""


def _token_bytes(backend: "Tokenizer", *, byte_level: bool) -> tuple[bytes, ...]:
    added = backend.get_added_tokens_decoder()
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocab = backend.get_vocab(with_added_tokens=True)
    tokens = [b""] * (1 + max(vocab.values()))  # an id that no token has stays empty: it is never encoded
    for piece, i in vocab.items():
        if i in added:
            tokens[i] = b"" if added[i].special else added[i].content.encode()
        elif byte_level:
            # A character outside the table cannot come from text; such a token is never encoded.
            tokens[i] = bytes(byte_of[c] for c in piece) if all(c in byte_of for c in piece) else b""
        elif byte := _BYTE_PIECE.fullmatch(piece):
            tokens[i] = bytes.fromhex(byte[1])
        else:
            tokens[i] = piece.replace(MARKER, " ").encode()
    return tuple(tokens)


def _load_gigatoken(spec: Any) -> gigatoken.EncodeOne:
    # Without the special tokens, whose spelling it would take for them.
    plain = [token for token in spec["added_tokens"] if not token["special"]]
    return gigatoken.load_tokenizer_json(json.dumps(spec | {"added_tokens": plain}).encode())


def _has_marker(text: str) -> bool:
    return MARKER in text


def _encode(backend: "Tokenizer", marker_ids: list[int], text: str) -> list[int]:
    if not marker_ids or MARKER not in text:
        backend.encode_special_tokens = True
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids
    return _encode_many(backend, marker_ids, [text])[0]


def _encode_many(backend: "Tokenizer", marker_ids: list[int], texts: Sequence[str]) -> list[list[int]]:
    # A special token spelled in a text is text. Set here, since a pickled tokenizer forgets it.
    backend.encode_special_tokens = True

    def encode_many(parts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(parts, add_special_tokens=False)]

    return encode_around_marker(texts, encode_many, marker_ids=marker_ids)


def _encode_each(backend: "Tokenizer", marker_ids: list[int], texts: Sequence[str]) -> list[NDArray[Any]]:
    # One text at a time: the `encode_batch_fast` that skips offsets, without its threads and with less memory.
    return [np.array(_encode_many(backend, marker_ids, [text])[0], dtype=np.uint32) for text in texts]
