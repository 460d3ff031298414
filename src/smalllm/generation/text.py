"""Text that goes in as the model knows it, and arrives token by token, without broken characters."""

import codecs
from collections.abc import Sequence

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
    """Turns token ids into text as they come; a character whose bytes are split over tokens waits for its last.

    Args:
        tokenizer: whose ids they are.
        stop: texts before the first of which the stream ends, wherever token borders are; what could be the
            beginning of one waits until it is known.

    Attributes:
        is_stopped: whether one of them was met; nothing comes after it.
    """

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = ()) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop, self._held = tuple(stop), ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        return self._take(self._decoder.decode(self._token_bytes[token_id]), is_last=False)

    def end(self) -> str:
        """What is left, with U+FFFD for bytes that never became a character."""
        return self._take(self._decoder.decode(b"", final=True), is_last=True)

    def _take(self, text: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        met = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if met:
            self._held, self.is_stopped = "", True
            return text[: min(met)]
        n_held = 0 if is_last else max(_n_begun(text, stop) for stop in self._stop)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _n_begun(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of another."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)
