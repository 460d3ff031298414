"""Text that goes in as the model knows it, and arrives token by token, without broken characters."""

import codecs

from smalllm.config import DataConfig
from smalllm.protocols import Tokenizer


def prompt_ids(prompt: str, tokenizer: Tokenizer, data: DataConfig) -> list[int]:
    """The ids of a prompt as the beginning of a document, for a model trained on this data.

    One that was trained on documents apart from each other has seen them begin with the end token, which opens them,
    and gets it before the prompt. One that read a stream has seen windows begin anywhere, and gets the prompt alone.
    """
    opens = [tokenizer.eos_id] if data.document_mask or data.packing == "padded" else []
    return opens + tokenizer.encode(prompt)


class TextStream:
    """Turns token ids into text as they come; a character whose bytes are split over tokens waits for its last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        return self._decoder.decode(self._token_bytes[token_id])

    def end(self) -> str:
        """What is left, with U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)
