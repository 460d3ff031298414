"""Small tokenizers of every kind, awkward texts, and checkpoint folders around a tokenizer."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smalllm.interop.pieces import Piece, read_sentencepiece
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import byte_characters, load_gpt2
from smalllm.tokenizers.huggingface import train_huggingface
from smalllm.tokenizers.sentencepiece import train_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, TextTokenizer

VERSE = """The cat sat on the mat, and the dog ate the cat's hat.
\tif cat:
\t\treturn 'hat'   # the hat
        for word in every_other_word(of_this_text, 10 + 200):
            print(word, end='\\n' * 2)  # ==== a comment ====

Été à Paris: déjà vu! Über den Wolken muß die Freiheit wohl grenzenlos sein. Съешь же ещё этих мягких французских булок.
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.
"""
TEXTS = [f"{VERSE} {i} {VERSE.lower()}" for i in range(40)]
WORDS = [
    MARKER,
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "<|endoftext|>",
    "\n",
    "\r\n",
    "  ",
    " the",
    "\0",
    "e\u0301",
    "\ufeff",
]
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
KINDS = ["gpt2", "sentencepiece", "huggingface", "bytes"]


def make_tokenizers(folder: Path) -> dict[str, TextTokenizer]:
    return {
        "gpt2": load_gpt2(gpt2_files(folder)),
        "sentencepiece": train_sentencepiece(TEXTS, vocab_size=450),
        "huggingface": train_huggingface(TEXTS, vocab_size=330),
        "bytes": build_bytes(),
    }


def gpt2_files(folder: Path) -> Path:
    """GPT-2's size and file formats without its words: 256 bytes and 50,000 pairs of them."""
    characters = sorted(byte_characters(), reverse=True)  # so that pairs of newlines and spaces are among them
    pairs = [(a, b) for a in characters for b in characters][:50_000]
    words = [*characters, *("".join(pair) for pair in pairs), "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    return folder


def random_texts(n: int, *, seed: int = 0) -> list[str]:
    """Pieces of the training text, of all planes of Unicode, control characters, runs, and words with a meaning."""
    chooser = random.Random(seed)
    return ["".join(_random_part(chooser) for _ in range(chooser.randrange(1, 10))) for _ in range(n)]


def _random_part(chooser: random.Random) -> str:
    kind = chooser.randrange(5)
    if kind == 0:
        some = (chooser.randrange(0x110000) for _ in range(chooser.randrange(1, 12)))
        return "".join(chr(i) for i in some if not 0xD800 <= i < 0xE000)
    if kind == 1:
        return "".join(chr(chooser.randrange(0x250)) for _ in range(chooser.randrange(1, 20)))
    if kind == 2:
        return chooser.choice(WORDS) * chooser.choice([1, 1, 2, 3, 17])
    text = TEXTS[0]
    start = chooser.randrange(len(text))
    return text[start : start + chooser.randrange(60)]


def long_texts() -> list[str]:
    """Words of tens of thousands of characters, and the empty text."""
    letters = "".join(random.Random(0).choice("that ") for _ in range(40_000))
    return ["x" * 50_000, " " * 30_000 + "the", "thecat" * 5_000, "é" * 20_000, f"a{MARKER}" * 5_000, letters, ""]


def byte_fallback_spec(*, prefix: bool) -> dict[str, Any]:
    """A tokenizer.json as Llama 2's (with a space put in front of every text) or Gemma's (without)."""
    words = ["th", "the", f"{MARKER}the", f"{MARKER}c", f"{MARKER}{MARKER}"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), MARKER, *"abcdethnHlo", *words]
    space: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
    if prefix:
        space = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARKER}, space]}
    steps = [{"type": "Replace", "pattern": {"String": MARKER}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]  # fmt: skip  # noqa: E501
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    merges = [["t", "h"], ["th", "e"], [MARKER, "the"], [MARKER, "c"], [MARKER, MARKER]]
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], "special": True, **FLAGS} for i in range(3)],
        "normalizer": space,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {**model, "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges},
    }


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def load_auto(folder: Path, *, model_type: str = "llama") -> Any:
    """What transformers makes of a folder, as that of a model of this type."""
    from transformers import AutoTokenizer

    if not (folder / "config.json").exists():
        write_json(folder / "config.json", {"model_type": model_type})
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def auto_ids(theirs: Any, texts: list[str]) -> list[list[int]]:
    """Their ids where a special token spelled in a text is text, as it is to us."""
    found: list[list[int]] = theirs(texts, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    return found


def train_spm(folder: Path, **options: Any) -> Path:
    """A SentencePiece model of another program, lossless unless an option says otherwise."""
    import sentencepiece

    lossless = {"byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False}
    options = {"model_type": "bpe", **lossless, "remove_extra_whitespaces": False, "vocab_size": 440, **options}
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(VERSE.splitlines()), model_writer=file, minloglevel=2, num_threads=1,
            hard_vocab_limit=False, **options,
        )  # fmt: skip
    return folder / "tokenizer.model"


def edit_spm(content: bytes, change: Callable[[list[Piece]], None]) -> bytes:
    """A SentencePiece model with other pieces."""
    pieces = list(read_sentencepiece(content).pieces)
    before = b"".join(map(_encode_piece, pieces))
    assert content.startswith(before)
    change(pieces)
    return b"".join(map(_encode_piece, pieces)) + content[len(before) :]


def _encode_piece(piece: Piece) -> bytes:
    text = piece.text.encode()
    types = {"unknown": 2, "control": 3, "user-defined": 4, "unused": 5, "byte": 6}
    type_field = b"\x18" + bytes([types[piece.type]]) if piece.type != "normal" else b""
    message = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", piece.score) + type_field
    return b"\x0a" + bytes([len(message)]) + message
