"""gigatoken in place of the reference libraries: the same ids on any text, and what happens where they are not."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smalllm.errors import EncodingError, TokenizerError
from smalllm.tokenizers import build_tokenizer
from smalllm.tokenizers.gigatoken import WATCHED_CHARACTERS, Watched, is_installed, watched
from smalllm.tokenizers.gpt2 import MAX_WHITESPACE_RUN
from smalllm.tokenizers.text_tokenizer import TextTokenizer
from smalllm.tokenizers.workers import encode_here, encode_in_processes

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs the extra: pip install 'smalllm[gigatoken]'")

TEXTS = [f"The cat number {i} sat on the mat. Été 猫 {'na ' * (i % 7)}\n  It's 12½ o'clock" for i in range(60)]
NEW = "\U000323b0"  # a letter since Unicode 17: libraries differ
WORDS = ["The cat", " sat", "\n", "   ", "\t", "<|endoftext|>", "<s>", "</s>", "<unk>", "\u2581", "<0x0A>", "'s", NEW]


@pytest.fixture(scope="module", params=["gpt2", "huggingface", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = None
    if request.param == "gpt2":
        sys.path.insert(0, str(Path(__file__).parent))
        from test_tokenizers import gpt2_files

        path = gpt2_files(tmp_path_factory.mktemp("vocabulary"))
    size = {"sentencepiece": 340, "huggingface": 320}.get(request.param)
    made = build_tokenizer(request.param, vocab_size=size, path=path, texts=lambda: iter(TEXTS * 3))
    made.encode_arrays(TEXTS)
    assert isinstance(made, TextTokenizer) and made.is_quick, "gigatoken was not found equal on ordinary text"
    return made


def test_ids_are_the_references_on_any_text(tokenizer: TextTokenizer) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.lists(st.text(max_size=12) | st.sampled_from(WORDS), max_size=6).map("".join), max_size=4))
    def check(texts: list[str]) -> None:
        ids, counts = tokenizer.encode_arrays(texts)
        rows = [tokenizer.encode(text) for text in texts]
        assert ids.tolist() == [i for row in rows for i in row]
        assert counts.tolist() == [len(row) for row in rows]

    check()


def test_threads_share_it(tokenizer: TextTokenizer) -> None:
    expected = [tokenizer.encode(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as threads:
        for encoded in threads.map(tokenizer.encode_arrays, [TEXTS] * 24):
            assert encoded.ids.tolist() == [i for row in expected for i in row]


def test_a_quick_tokenizer_needs_no_process(tokenizer: TextTokenizer) -> None:
    batches = [[text.encode() for text in TEXTS[i : i + 7]] for i in range(0, 60, 7)]
    with encode_in_processes(tokenizer, Path("/nowhere"), n_workers=2) as encode:
        found = list(encode(iter(batches)))
    expected = list(encode_here(tokenizer)(batches))
    assert [e.ids.tolist() for e in found] == [e.ids.tolist() for e in expected]


def test_a_run_of_whitespace_longer_than_tiktoken_takes(tokenizer: TextTokenizer) -> None:
    if tokenizer.kind == "gpt2":
        text = "a" + " " * (2 * MAX_WHITESPACE_RUN + 3) + "b"
        assert tokenizer.encode_arrays([text]).ids.tolist() == tokenizer.encode(text)


def _points(texts: Sequence[str]) -> list[NDArray[Any]]:
    return [np.array([ord(c) for c in text]) for text in texts]


def _wrong_for_x(text: str) -> NDArray[Any]:
    return np.array([ord(c) + (c == "x") for c in text])


def test_other_ids_at_first_leave_all_to_the_reference() -> None:
    encode = watched(lambda: _wrong_for_x, _points)
    assert isinstance(encode, Watched)
    assert [row.tolist() for row in encode(["abc", "x"])] == [[97, 98, 99], [120]]
    assert encode.fast is None
    assert [row.tolist() for row in encode(["x"])] == [[120]]


def test_a_vocabulary_it_cannot_load_is_left_to_the_reference() -> None:
    def load() -> Any:
        raise ValueError("unknown pre-tokenizer")

    encode = watched(load, _points)
    assert [row.tolist() for row in encode(["ab"])] == [[97, 98]]
    assert [row.tolist() for row in encode(["ab"])] == [[97, 98]]


def test_other_ids_later_stop_the_encoding() -> None:
    encode = watched(lambda: _wrong_for_x, _points)
    encode(["abc"])
    assert [row.tolist() for row in encode(["abc"])] == [[97, 98, 99]]
    with pytest.raises(TokenizerError, match="pip uninstall gigatoken"):
        encode(["abx"])
    with pytest.raises(TokenizerError, match="does not give the reference's ids"):
        for _ in range(8):  # a long text is watched piece by piece
            encode(["a" * (3 * WATCHED_CHARACTERS) + "x"])


def test_other_ids_reach_the_user_as_an_error_of_encoding(tokenizer: TextTokenizer) -> None:
    from dataclasses import replace

    wrong = watched(lambda: _wrong_for_x, _points)
    bad = replace(tokenizer, encode_each=wrong, encode_one=lambda text: [ord(c) for c in text])
    with pytest.raises(EncodingError, match="gigatoken"):
        list(encode_here(bad)([[b"abc"], [b"abc"], [b"xx", b"xx"], [b"xx", b"xx"]]))


def test_characters_that_libraries_class_differently_are_the_references() -> None:
    encode = watched(
        lambda: lambda text: np.zeros(len(text), int), lambda texts: [np.zeros(len(t), int) for t in texts]
    )
    encode(["abc"])
    assert isinstance(encode, Watched)
    assert encode._is_left(f"a{NEW}") and encode._is_left("\U0003305a")
    assert not encode._is_left("Été 猫 🙂\u2028")
