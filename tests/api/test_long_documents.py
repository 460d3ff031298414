"""What docs/data.md promises of documents that are too long to encode at once: where they are cut, and which ids."""

import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smalllm.data.document import Document
from smalllm.data.text_files import cut_document
from smalllm.protocols import Tokenizer
from smalllm.tokenizers import build_tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tokenizers"))
from test_tokenizers import gpt2_files

KINDS = ["bytes", "gpt2", "sentencepiece", "huggingface"]
TRAINING = ["the cat's  hat, 12 hats\n\nÉté déjà: the end \n the\tcat\n"] * 200
MAX_CHARACTERS = 12

ENDS = st.sampled_from(["a", "the", "cat's", "12", "!", "é", "猫", "'s"])
INSIDE = st.lists(ENDS | st.sampled_from([" ", "  ", "\t"]), max_size=2).map("".join)
LINES = st.tuples(INSIDE, ENDS).map("".join).filter(lambda line: len(line) < MAX_CHARACTERS - 3)
BREAKS = st.sampled_from(["\n", "\n\n", "\n\n\n"])


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = gpt2_files(tmp_path_factory.mktemp("vocabulary"))
    sizes = {"sentencepiece": 300, "huggingface": 280}
    return {
        kind: build_tokenizer(
            kind,
            vocab_size=sizes.get(kind),
            path=folder if kind == "gpt2" else None,
            texts=lambda: iter(TRAINING),
        )
        for kind in KINDS
    }


def in_parts(text: str, tokenizer: Tokenizer) -> list[int]:
    parts = list(cut_document(Document(text, "x"), max_part_characters=MAX_CHARACTERS))
    assert "".join(part.text for part in parts) == text and [p.final for p in parts].count(True) == 1
    return [i for part in parts for i in tokenizer.encode(part.text)]


@pytest.mark.parametrize("kind", KINDS)
@given(lines=st.lists(st.tuples(LINES, BREAKS), min_size=3, max_size=12))
@settings(max_examples=150)
def test_cut_at_newlines_the_ids_are_those_of_the_whole(
    tokenizers: dict[str, Tokenizer], kind: str, lines: list[tuple[str, str]]
) -> None:
    """Lines shorter than a part, that do not end in spaces, with `\\n` between them."""
    text = "".join(line + newlines for line, newlines in lines)
    assert in_parts(text, tokenizers[kind]) == tokenizers[kind].encode(text)


@given(text=st.text(max_size=60).filter(lambda text: text.strip("\r\n")))
@example("x" * 40)
def test_bytes_are_the_same_wherever_they_are_cut(tokenizers: dict[str, Tokenizer], text: str) -> None:
    assert in_parts(text, tokenizers["bytes"]) == tokenizers["bytes"].encode(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("gpt2", "a long line \n\n the next"),  # the cut is between a space and the newline after it
        ("gpt2", "aaaaaaaaaaa   b"),
        ("huggingface", "aaaaaaaaaathe end"),
    ],
    ids=["spaces before a newline", "a part without a newline", "inside a word"],
)
def test_the_exceptions_are_real(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    """The partner: elsewhere a cut does change ids, though never the text."""
    tokenizer = tokenizers[kind]
    cut = in_parts(text, tokenizer)
    assert tokenizer.decode(cut) == text
    assert cut != tokenizer.encode(text)
