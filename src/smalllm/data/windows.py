"""The windows of a split as training and evaluation take them, whichever way documents are laid into them."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy import int64
from numpy.typing import NDArray

from smalllm.config import Packing
from smalllm.data.batches import n_windows, read_windows
from smalllm.data.padded import DocumentIndex, index_documents, read_padded
from smalllm.data.shards import TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The numbered windows of a split, all of one length.

    Attributes:
        n: how many there are; an epoch takes each once.
        n_tokens: targets in all of them, padding left out.
        read: from window numbers [n] to inputs and targets [n, context_length]; a target of -100 is padding.
        notice: what the user should know of them, if anything.
    """

    n: int
    n_tokens: int
    read: Callable[[NDArray[int64]], tuple[NDArray[int64], NDArray[int64]]]
    notice: str = ""

    def first(self, max_tokens: int) -> int:
        """How many windows hold about `max_tokens` targets: one at least, all of them for 0."""
        return min(self.n, max(1, max_tokens * self.n // self.n_tokens)) if max_tokens else self.n


def open_windows(
    stream: TokenStream, *, packing: Packing, context_length: int, eos_id: int, split: str = "train"
) -> Windows:
    """The windows of a split.

    Args:
        stream: the split's tokens.
        packing: "stream" cuts them into windows (see `batches.py`); "padded" gives each document one (see `padded.py`)
            and reads the whole split once, to find the documents.
        context_length: targets per window [tokens].
        eos_id: the end-of-document token.
        split: its name, for messages.

    Raises:
        DataError: there is not one window, or no document.
    """
    if packing == "padded":
        index = index_documents(stream, eos_id=eos_id, context_length=context_length, split=split)
        return Windows(
            n=index.n_documents,
            n_tokens=index.n_kept_tokens,
            read=lambda numbers: read_padded(index, numbers, context_length),
            notice=_notice(index, context_length, split),
        )

    def read(numbers: NDArray[int64]) -> tuple[NDArray[int64], NDArray[int64]]:
        rows = read_windows(stream, numbers, context_length)
        return rows[:, :-1], rows[:, 1:]

    n = n_windows(stream.n_tokens, context_length, split=split)
    return Windows(n=n, n_tokens=n * context_length, read=read)


def _notice(index: DocumentIndex, context_length: int, split: str) -> str:
    n, kept, total = index.n_documents, index.n_kept_tokens, index.stream.n_tokens
    return (
        f"{split}: {n:,} documents, one per window of {context_length:,}; {1 - kept / (n * context_length):.1%} of the "
        f"positions are padding; longer than that and cut: {index.n_cut:,} ({1 - kept / total:.1%} of all tokens left "
        "out)"
    )
