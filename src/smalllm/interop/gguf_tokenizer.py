"""A tokenizer as the lists that a GGUF file holds.

llama.cpp encodes the kinds in two ways, which the file names:

    model    way                                                           kinds
    gpt2     merges of byte characters, after one of the pre-tokenizers    gpt2, bytes, byte-level huggingface
             that llama.cpp knows by name
    llama    SentencePiece's: of two pairs, the piece with the higher      sentencepiece, byte-fallback huggingface
             score is made first

Source: llama.cpp `src/llama-vocab.cpp`, of llama-cpp-python 0.3.36.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from smalllm.errors import InteropError
from smalllm.interop.pieces import PieceType, read_sentencepiece, recover_merges
from smalllm.tokenizers.gpt2 import EOS, byte_characters
from smalllm.tokenizers.text_tokenizer import MARKER, TextTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece's numbers and GGUF's
TYPES: dict[PieceType, int] = {
    "normal": NORMAL,
    "unknown": UNKNOWN,
    "control": CONTROL,
    "user-defined": USER_DEFINED,
    "unused": UNUSED,
    "byte": BYTE,
}
# llama.cpp asks for merges. This one is never applied: no text has this character once it is byte characters.
NO_MERGE = f"{MARKER} {MARKER}"

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_ONLY_BYTES = {**_BYTE_LEVEL, "use_regex": False}
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [_DIGITS, _BYTE_LEVEL],
    "qwen2": [_split(_QWEN2), _ONLY_BYTES],
    "llama-bpe": [_split(_LLAMA3), _ONLY_BYTES],
}
"""llama.cpp's names, and the steps of a tokenizer.json that do the same."""

IGNORES_MERGES = ("llama-bpe",)
"""Those for which llama.cpp takes a word that is a token as that token, whatever its merges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTokenizer:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: the way of encoding.
        pre: llama.cpp's name of the pre-tokenizer; "default" where the way has none.
        tokens: by id, all different: byte characters (gpt2) or pieces with U+2581 for a space (llama).
        types: by id.
        scores: by id, for "llama".
        merges: for "gpt2", first ones first: two tokens with a space between.
        eos_id: the token that ends a document; it also starts one.
        unk_id: the token of what has none.
        add_space_prefix: whether a space is put in front of a text.
    """

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    eos_id: int
    unk_id: int | None = None
    add_space_prefix: bool = False


def gguf_tokenizer(tokenizer: TextTokenizer) -> GGUFTokenizer:
    """The lists of a tokenizer.

    Raises:
        InteropError: llama.cpp has no way to its ids; the message says what it lacks.
    """
    make = {"gpt2": _gpt2, "bytes": _bytes, "sentencepiece": _sentencepiece, "huggingface": _huggingface}
    made = make[tokenizer.kind](tokenizer)
    twice = [token for token, n in Counter(made.tokens).items() if n > 1]
    if twice:
        raise refused(f"two of its ids are written {twice[0]!a}, and llama.cpp tells ids by how they are written")
    return made


def refused(reason: str) -> InteropError:
    """The error of a tokenizer that llama.cpp cannot repeat."""
    return InteropError(
        f"the tokenizer cannot be written for llama.cpp: {reason}. Export with --format hf, or train with a tokenizer "
        "of smalllm's own (--tokenizer.kind gpt2, sentencepiece, huggingface or bytes, without a path)"
    )


def _gpt2(tokenizer: TextTokenizer) -> GGUFTokenizer:
    characters = byte_characters()
    words = ["".join(characters[byte] for byte in token) for token in tokenizer.token_bytes[: tokenizer.eos_id]]
    merges = recover_merges(word for word in words if len(word) > 1)
    return GGUFTokenizer(
        model="gpt2",
        pre="gpt-2",
        tokens=(*words, EOS),
        types=(*[NORMAL] * len(words), CONTROL),
        merges=tuple(f"{left} {right}" for left, right in merges),
        eos_id=tokenizer.eos_id,
    )


def _bytes(tokenizer: TextTokenizer) -> GGUFTokenizer:
    return replace(_gpt2(tokenizer), merges=(NO_MERGE,))


def _sentencepiece(tokenizer: TextTokenizer) -> GGUFTokenizer:
    model = read_sentencepiece(tokenizer.content)
    if not model.is_bpe:
        raise refused("it is a Unigram SentencePiece model, and llama.cpp's SentencePiece merges by score")
    types = tuple(TYPES[piece.type] for piece in model.pieces)
    if UNUSED in types:
        raise refused("it has unused pieces, which llama.cpp would use")
    return GGUFTokenizer(
        model="llama",
        pre="default",
        tokens=tuple(piece.text for piece in model.pieces),
        types=types,
        scores=tuple(piece.score for piece in model.pieces),
        eos_id=tokenizer.eos_id,
        unk_id=types.index(UNKNOWN),
        add_space_prefix=_puts_space_in_front(tokenizer),
    )


def _puts_space_in_front(tokenizer: TextTokenizer) -> bool:
    return tokenizer.decode(tokenizer.encode("a")) == " a"


def _huggingface(tokenizer: TextTokenizer) -> GGUFTokenizer:
    spec = json.loads(tokenizer.content)
    model = spec["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refused(f"its model is {model['type']}; llama.cpp has plain byte-pair encodings")
    for token in spec["added_tokens"]:
        if not token["special"] and (token.get("lstrip") or token.get("rstrip") or token.get("single_word")):
            raise refused(f"its token {token['content']!a} takes the spaces beside it, or stands only as a word")
    return _byte_fallback(tokenizer, spec) if model.get("byte_fallback") else _byte_level(tokenizer, spec)


def _byte_level(tokenizer: TextTokenizer, spec: dict[str, Any]) -> GGUFTokenizer:
    normalizer = (spec.get("normalizer") or {}).get("type", "NFC")
    if normalizer != "NFC":
        raise refused(f"its normaliser is {normalizer}, and llama.cpp changes no text")
    pre = _pre_tokenizer(spec)
    tokens, types = _tokens(tokenizer)
    merges = tuple(" ".join(merge) for merge in _merges(spec))
    return GGUFTokenizer(
        model="gpt2", pre=pre, tokens=tokens, types=types, merges=merges or (NO_MERGE,), eos_id=tokenizer.eos_id
    )


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    found = spec.get("pre_tokenizer") or {}
    steps = found["pretokenizers"] if found.get("type") == "Sequence" else [found]
    # trim_offsets says where tokens are, not which; use_regex was not written before it could be false.
    plain = [{k: v for k, v in {"use_regex": True, **step}.items() if k != "trim_offsets"} for step in steps]
    ignores_merges = bool(spec["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if plain == [{"use_regex": True, **step} for step in known] and ignores_merges == (name in IGNORES_MERGES):
            return name
    shown = " + ".join(_shown_step(step) for step in steps) + (" that ignores merges" if ignores_merges else "")
    raise refused(
        f"its pre-tokenizer is {shown}; known are those of {', '.join(PRE_TOKENIZERS)} (GPT-2's is a ByteLevel with "
        "its regex)"
    )


def _shown_step(step: dict[str, Any]) -> str:
    settings = {k: v for k, v in step.items() if k not in ("type", "trim_offsets")}
    return (
        f"{step.get('type', 'none')} {json.dumps(settings, ensure_ascii=True)}" if settings else str(step.get("type"))
    )


def _byte_fallback(tokenizer: TextTokenizer, spec: dict[str, Any]) -> GGUFTokenizer:
    """Scores that make the pieces in the order of the merges."""
    _check_spaces(spec)
    tokens, types = _tokens(tokenizer)
    tokens = tuple(token.replace(" ", MARKER) if t == NORMAL else token for token, t in zip(tokens, types, strict=True))
    merges = [(left.replace(" ", MARKER), right.replace(" ", MARKER)) for left, right in _merges(spec)]
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    place = {merge: i for i, merge in enumerate(merges)}
    needed = [place.get(merge, -1) for merge in recover_merges(ranks)]
    unmade = {token for token, t in zip(tokens, types, strict=True) if t == NORMAL} - set(ranks)
    if (
        len(needed) < len(ranks)
        or -1 in needed
        or needed != sorted(needed)
        or any(_can_be_merged(token, set(tokens)) for token in unmade)
    ):
        raise refused("its merges are not in the order of what they make, and llama.cpp goes by pieces")
    unknown = spec["model"].get("unk_token")
    special = {**{f"<0x{byte:02X}>": BYTE for byte in range(256)}, unknown: UNKNOWN}
    return GGUFTokenizer(
        model="llama",
        pre="default",
        tokens=tokens,
        types=tuple(special.get(token, t) for token, t in zip(tokens, types, strict=True)),
        scores=tuple(-float(ranks.get(token, 0)) for token in tokens),
        eos_id=tokenizer.eos_id,
        unk_id=tokens.index(unknown) if unknown in tokens else None,
        add_space_prefix=_puts_space_in_front(tokenizer),
    )


def _check_spaces(spec: dict[str, Any]) -> None:
    """Nothing is done to a text but what SentencePiece does: U+2581 for a space, and one in front."""
    normalizer, before = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    for step in steps:
        replaces_spaces = (step.get("pattern"), step.get("content")) == ({"String": " "}, MARKER)
        puts_one_in_front = step.get("type") == "Prepend" and step.get("prepend") == MARKER
        if step and not (replaces_spaces or puts_one_in_front):
            raise refused(f"its normaliser has a {_shown_step(step)}, and llama.cpp changes no text")
    if before and (before.get("type"), before.get("split")) != ("Metaspace", False):
        raise refused(f"its pre-tokenizer is {_shown_step(before)}, and llama.cpp's SentencePiece has none")


def _can_be_merged(token: str, tokens: set[str]) -> bool:
    return any(token[:i] in tokens and token[i:] in tokens for i in range(1, len(token)))


def _tokens(tokenizer: TextTokenizer) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """How every id is written, and what it is; ids that no token has get a name."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_buffer(tokenizer.content)  # which decides the ids of added tokens, not the file
    added = backend.get_added_tokens_decoder()
    tokens, types = [f"[PAD{i}]" for i in range(tokenizer.vocab_size)], [UNUSED] * tokenizer.vocab_size
    for token, i in backend.get_vocab(with_added_tokens=True).items():
        tokens[i], types[i] = token, NORMAL
        if i in added:
            types[i] = CONTROL if added[i].special else USER_DEFINED
    return tuple(tokens), tuple(types)


def _merges(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """The pairs of a tokenizer.json; older ones have a space between them."""
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in spec["model"]["merges"]]
    return [(left, right) for left, right in pairs]
