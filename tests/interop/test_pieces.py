"""Merges recovered from an order of pieces encode as that order; sentencepiece's own reader sees the same pieces."""

import io
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_helpers import TEXTS, edit_spm

from smalllm.interop.pieces import read_sentencepiece, recover_merges
from smalllm.tokenizers.sentencepiece import train_sentencepiece

PIECES = st.lists(st.text("ab ", min_size=2, max_size=5), max_size=14, unique=True)


def merge_any_neighbours(text: str, pieces: list[str]) -> list[str]:
    """As tiktoken and sentencepiece do: of all neighbours that make a piece, the best and leftmost, again and again."""
    parts = list(text)
    while True:
        found = [(pieces.index(a + b), i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in pieces]
        if not found:
            return parts
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def merge_listed_pairs(text: str, pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    from tokenizers import Tokenizer, models

    vocab = {piece: i for i, piece in enumerate(["a", "b", " ", *pieces])}
    found: list[str] = Tokenizer(models.BPE(vocab=vocab, merges=merges)).encode(text).tokens
    return found


@given(pieces=PIECES, text=st.text("ab ", max_size=40))
@settings(max_examples=400)
def test_recovered_merges_encode_as_the_order_of_pieces(pieces: list[str], text: str) -> None:
    assert merge_listed_pairs(text, pieces, recover_merges(pieces)) == merge_any_neighbours(text, pieces)


def test_pairs_that_are_not_those_of_the_order_encode_otherwise() -> None:
    pieces, text = ["ab", "bb", "abb"], "abb"
    assert recover_merges(pieces) == [("a", "b"), ("b", "b"), ("ab", "b")]
    assert merge_any_neighbours(text, pieces) == ["abb"]
    assert merge_listed_pairs(text, pieces, [("a", "b"), ("b", "b"), ("a", "bb")]) == ["ab", "b"]


def test_a_piece_that_no_merging_reaches_is_left_out() -> None:
    assert recover_merges(["bc", "abc", "xyz", "zz"]) == [("b", "c"), ("a", "bc"), ("z", "z")]


def test_merges_of_a_trained_bpe_are_recovered() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    order = sorted(bpe.get_vocab(), key=bpe.get_vocab().__getitem__)
    merges = recover_merges(piece for piece in order if len(piece) > 1)
    assert len(merges) > 40
    assert [list(pair) for pair in merges] == json.loads(bpe.to_str())["model"]["merges"]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_sees_the_same_pieces(model_type: str) -> None:
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS[0].splitlines()), model_writer=file, minloglevel=2, vocab_size=440,
        model_type=model_type, byte_fallback=True, user_defined_symbols=["<user>"], hard_vocab_limit=False,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    ours = read_sentencepiece(file.getvalue())
    assert ours.is_bpe == (model_type == "bpe")
    assert len(ours.pieces) == len(theirs)
    for i, piece in enumerate(ours.pieces):
        assert (piece.text, piece.score) == (theirs.IdToPiece(i), theirs.GetScore(i))
        assert (piece.type == "byte") == theirs.IsByte(i)
        assert (piece.type == "control") == theirs.IsControl(i)
        assert (piece.type == "unknown") == theirs.IsUnknown(i)
        assert (piece.type == "user-defined") == (piece.text == "<user>")


def test_an_edited_model_is_read_as_edited() -> None:
    content = train_sentencepiece(TEXTS, vocab_size=440).content
    assert edit_spm(content, lambda pieces: None) == content
    assert len(read_sentencepiece(edit_spm(content, lambda pieces: pieces.pop() and None)).pieces) == 439
