"""Vocabularies as other programs want them: the pairs that a byte-pair encoding merges, and SentencePiece's pieces.

Not here: the files they are written to (`tokenizer_files.py`).

Source: Sennrich, Haddow & Birch 2016, "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909; sentencepiece's `sentencepiece_model.proto`.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

PieceType = Literal["normal", "unknown", "control", "user-defined", "unused", "byte"]
_TYPES: dict[int, PieceType] = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType; the first is the default


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of a SentencePiece vocabulary.

    Attributes:
        text: as the model writes it, with U+2581 for a space.
        score: of two pairs that could be merged, the one with the higher score is.
        type: normal; unknown, control: never made from text; user-defined: always one token; unused; byte: "<0x0A>".
    """

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What decides the ids of a SentencePiece model, normalisation aside.

    Attributes:
        is_bpe: whether it merges pairs; else it is a Unigram (or word or character) model.
        pieces: by id.
    """

    is_bpe: bool
    pieces: tuple[Piece, ...]


def read_sentencepiece(content: bytes) -> SentencePieceModel:
    """The pieces in a SentencePiece model file, which sentencepiece itself has read before.

    Its own reader needs the protobuf package and hides the type of user-defined pieces; of the format, three fields
    matter.
    """
    pieces, model_type = [], _UNIGRAM
    for number, value in _fields(content):
        if number == 1:
            found = dict(_fields(bytes(value)))
            score = struct.unpack("<f", found.get(2, bytes(4)))[0]
            pieces.append(Piece(found[1].decode("utf-8"), score, _TYPES[int.from_bytes(found.get(3, b"\1"), "little")]))
        elif number == 2:
            model_type = int.from_bytes(dict(_fields(value)).get(3, bytes([_UNIGRAM])), "little")
    return SentencePieceModel(model_type == _BPE, tuple(pieces))


def recover_merges(pieces: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs that a byte-pair encoding merges, from the order of what they make.

    tiktoken and SentencePiece merge any two neighbours that make a piece, best piece first; the tokenizers library
    only listed pairs. One pair is enough for each piece: merging goes the same way inside a piece whatever stands
    around it, so the pair that makes it alone is the pair that makes it anywhere.

    Args:
        pieces: those of two or more characters, best first, all different.

    Returns:
        A pair for each piece, in their order; pieces that no merging reaches are left out.
    """
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    return [merge for piece in ranks if (merge := _last_merge(piece, ranks)) is not None]


def _last_merge(piece: str, ranks: dict[str, int]) -> tuple[str, str] | None:
    parts = list(piece)
    while len(parts) > 2:
        found = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = min(found)
        if best == len(ranks):
            return None
        i = found.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message: their numbers and their bytes, little-endian where they are numbers."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key & 7 == 0:
            value, position = _varint(message, position)
            yield key >> 3, value.to_bytes(8, "little")
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            size, position = _varint(message, position)
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
