"""The files of a tokenizer that Hugging Face's programs read: tokenizer.json and tokenizer_config.json.

Every kind becomes a fast tokenizer without code of its own. A special token spelled in a text is text to smalllm and
the token to Hugging Face; with `split_special_tokens=True` the ids are equal on every text. A `tokenizer.json` of the
user's or of an imported model goes out as it came in: Hugging Face may also add the special tokens that its
post-processor puts around a text, and takes a U+2581 in text for a space where the vocabulary writes spaces so.

Not here: reading them (`tokenizer_sources.py`).
"""

import json
from pathlib import Path
from typing import Any

from smalllm.errors import InteropError
from smalllm.interop.pieces import Piece, read_sentencepiece, recover_merges
from smalllm.tokenizers.gpt2 import EOS as GPT2_EOS
from smalllm.tokenizers.gpt2 import byte_characters
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES, TextTokenizer

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_hf_tokenizer(tokenizer: TextTokenizer, directory: Path, *, context_length: int) -> None:
    """Write a tokenizer's files for `transformers.AutoTokenizer` and the programs built on it.

    gpt2 also gets `vocab.json` and `merges.txt`, sentencepiece its `tokenizer.model`: programs that know these
    formats prefer them.

    Args:
        tokenizer: any kind.
        directory: created if absent; files of the same names are replaced.
        context_length: the model's [tokens].

    Raises:
        InteropError: a vocabulary whose ids a tokenizer.json cannot repeat, such as a Unigram model's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer.kind == "huggingface":
        spec, content = json.loads(tokenizer.content), tokenizer.content
    else:
        make = {"gpt2": _gpt2_spec, "sentencepiece": _sentencepiece_spec, "bytes": _bytes_spec}[tokenizer.kind]
        spec = make(tokenizer)
        content = (json.dumps(spec, ensure_ascii=False, indent=2) + "\n").encode()
        _check_ids(tokenizer, content)
    (directory / TOKENIZER).write_bytes(content)
    config = _config(spec, content, eos_id=tokenizer.eos_id, context_length=context_length)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    if tokenizer.kind == "gpt2":
        _write_gpt2_pair(spec, directory)
    if tokenizer.kind == "sentencepiece":
        tokenizer.save(directory)


def _gpt2_spec(tokenizer: TextTokenizer) -> dict[str, Any]:
    characters = byte_characters()
    words = ["".join(characters[byte] for byte in token) for token in tokenizer.token_bytes[: tokenizer.eos_id]]
    pieces = [word for word in words if len(word) > 1]
    merges = recover_merges(pieces)
    if len(merges) < len(pieces):
        unreached = sorted(set(pieces) - {left + right for left, right in merges})
        raise InteropError(
            f"{len(unreached):,} tokens of the GPT-2 vocabulary, {unreached[0]!r} for one, are made by no merge of two "
            "others; merges.txt cannot hold it. Restore the vocabulary: it is not the one OpenAI published"
        )
    return _spec(
        added_tokens=[_added(tokenizer.eos_id, GPT2_EOS, special=True)],
        pre_tokenizer={**_BYTE_LEVEL, "use_regex": True},
        decoder=_BYTE_LEVEL,
        model=_bpe([*words, GPT2_EOS], merges),
    )


def _bytes_spec(tokenizer: TextTokenizer) -> dict[str, Any]:
    return _spec(
        added_tokens=[_added(tokenizer.eos_id, GPT2_EOS, special=True)],
        pre_tokenizer={**_BYTE_LEVEL, "use_regex": False},
        decoder=_BYTE_LEVEL,
        model=_bpe([*byte_characters(), GPT2_EOS], []),
    )


def _sentencepiece_spec(tokenizer: TextTokenizer) -> dict[str, Any]:
    """A space is a space here, so that a U+2581 in a text is one and becomes its bytes."""
    model = read_sentencepiece(tokenizer.content)
    _check_representable(tokenizer, is_bpe=model.is_bpe, pieces=model.pieces)
    merged = sorted((p for p in model.pieces if p.type == "normal" and len(p.text) > 1), key=lambda p: -p.score)
    unknown = [piece.text for piece in model.pieces if piece.type == "unknown"]
    return _spec(
        added_tokens=[
            _added(i, _spaced(piece.text), special=piece.type != "user-defined")
            for i, piece in enumerate(model.pieces)
            if piece.type in ("control", "unknown", "user-defined")
        ],
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        model=_bpe(
            [_spaced(piece.text) for piece in model.pieces],
            recover_merges(_spaced(piece.text) for piece in merged),
            byte_fallback=True,
            unk_token=unknown[0] if unknown else None,
        ),
    )


def _check_representable(tokenizer: TextTokenizer, *, is_bpe: bool, pieces: tuple[Piece, ...]) -> None:
    merged = [piece for piece in pieces if piece.type == "normal" and len(piece.text) > 1]
    single = {piece.text for piece in pieces if len(piece.text) == 1}
    lacking = sorted({character for piece in merged for character in piece.text} - single)
    if not is_bpe:
        problem = "it is no BPE model, and the Unigram model of tokenizer.json takes the text <0x0A> for a newline"
    elif not tokenizer.is_lossless:
        problem = f"it changes text ({tokenizer.loss})"
    elif any(piece.type == "unused" for piece in pieces):
        problem = "it has unused pieces"
    elif len({piece.score for piece in merged}) < len(merged):
        problem = "two of its pieces have the same score, so that merges have no order"
    elif len({_spaced(piece.text) for piece in pieces}) < len(pieces):
        problem = "it has pieces that differ only in how they write a space"
    elif lacking:
        problem = f"{lacking[0]!r} occurs in its pieces and is none"
    else:
        return
    raise InteropError(
        f"the SentencePiece model cannot be written as tokenizer.json with the same ids: {problem}. Only models like "
        "those smalllm trains (--tokenizer.kind sentencepiece) can"
    )


def _spaced(piece: str) -> str:
    return piece.replace(MARKER, " ")


def _added(token_id: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


def _bpe(
    pieces: list[str],
    merges: list[tuple[str, str]],
    *,
    byte_fallback: bool = False,
    unk_token: str | None = None,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": merges,  # as pairs, since pieces may hold spaces
    }


def _spec(*, added_tokens: list[dict[str, Any]], pre_tokenizer: Any, decoder: Any, model: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _config(spec: dict[str, Any], content: bytes, *, eos_id: int, context_length: int) -> dict[str, Any]:
    from tokenizers import Tokenizer

    eos = Tokenizer.from_buffer(content).id_to_token(eos_id)
    unknown = spec["model"].get("unk_token")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": eos,  # the end of one document starts the next
        "eos_token": eos,
        **({"unk_token": unknown} if unknown else {}),
        # Nothing in front and nothing behind, to programs that would do so by habit.
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": (spec.get("pre_tokenizer") or {}).get("add_prefix_space", False),  # wins in transformers 4
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # transformers 4 would add one that no decoder takes
        "model_max_length": context_length,
    }


def _write_gpt2_pair(spec: dict[str, Any], directory: Path) -> None:
    vocabulary = json.dumps(spec["model"]["vocab"], ensure_ascii=False)
    merges = "".join(f"{left} {right}\n" for left, right in spec["model"]["merges"])
    (directory / "vocab.json").write_text(vocabulary, encoding="utf-8", newline="\n")
    (directory / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8", newline="\n")


def _check_ids(tokenizer: TextTokenizer, content: bytes) -> None:
    """Refuse a tokenizer.json that encodes awkward texts, or any token's own text, in another way."""
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_buffer(content)
    theirs.encode_special_tokens = True
    texts = [*PROBES, *(token.decode("utf-8", errors="replace") for token in tokenizer.token_bytes)]
    encodings = theirs.encode_batch_fast(texts, add_special_tokens=False)
    for text, ours, encoding in zip(texts, tokenizer.encode_batch(texts), encodings, strict=True):
        if ours != encoding.ids:
            raise InteropError(
                f"the {tokenizer.kind} tokenizer cannot be written as tokenizer.json with the same ids: "
                f"{text[:60]!a} is {ours[:20]} here and {encoding.ids[:20]} there"
            )
