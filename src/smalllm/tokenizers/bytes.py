"""The byte tokenizer: every UTF-8 byte is a token, and one more ends a document.

Needs no training, no file and no library. It is not compact: a token is a byte, where GPT-2's
stand for several.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smalllm.tokenizers.text_tokenizer import TextTokenizer


def build_bytes() -> TextTokenizer:
    """The tokenizer of 257 ids: the bytes 0 to 255, and 256 for the end of a document."""
    return TextTokenizer(
        kind="bytes",
        eos_id=256,
        token_bytes=(*(bytes([i]) for i in range(256)), b""),
        file_name=None,
        content=b"bytes",
        encode_one=_encode,
        encode_many=_encode_many,
        encode_each=_encode_each,
    )


def _encode(text: str) -> list[int]:
    return list(text.encode("utf-8"))


def _encode_many(texts: Sequence[str]) -> list[list[int]]:
    return [_encode(text) for text in texts]


def _encode_each(texts: Sequence[str]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]
