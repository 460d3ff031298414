"""Text that arrives token by token, without broken characters."""

import codecs

from smalllm.protocols import Tokenizer


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
