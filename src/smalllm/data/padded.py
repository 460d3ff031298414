"""One document per window: truncated to the context or padded, and found by its number without a list of all starts.

Document i of a split runs to its i-th end-of-document token, that included. How many end tokens there are before each
block of tokens is counted once, in one pass over the split; a document's start is looked for in its block when it is
asked for. So the index takes 8 bytes per 16,384 tokens, whatever the documents' lengths.

Source: Jacobson 1989, "Space-efficient Static Trees and Graphs" (rank and select by counts per block).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalllm.data.shards import TokenStream
from smalllm.errors import DataError

IGNORED = -100  # a target that is not predicted: padding. Also what PyTorch's cross-entropy leaves out.
_BLOCK_TOKENS = 1 << 14
_SCAN_TOKENS = 1 << 20  # a multiple of a block


@dataclass(frozen=True, slots=True, eq=False)
class DocumentIndex:
    """The documents of a split.

    Attributes:
        stream: the split's tokens.
        eos_id: ends each document; tokens after the last one are a document too.
        n_documents: how many there are.
        n_cut: how many are longer than the context length the index was made for.
        n_kept_tokens: tokens of all documents, each counted up to that length.
        ends_before: end tokens before each block of 16,384 tokens, and in all [n_blocks + 1].
    """

    stream: TokenStream
    eos_id: int
    n_documents: int
    n_cut: int
    n_kept_tokens: int
    ends_before: NDArray[np.int64]

    def start(self, number: int) -> int:
        """The position of the first token of document `number`, counted from 0."""
        if number == 0:
            return 0
        block = int(np.searchsorted(self.ends_before, number)) - 1  # the one that holds the end of the document before
        first = block * _BLOCK_TOKENS
        tokens = self.stream.read(first, min(first + _BLOCK_TOKENS, self.stream.n_tokens))
        return first + int(np.flatnonzero(tokens == self.eos_id)[number - 1 - self.ends_before[block]]) + 1


def index_documents(stream: TokenStream, *, eos_id: int, context_length: int, split: str = "train") -> DocumentIndex:
    """Read a split once and count its end tokens.

    Args:
        stream: the split's tokens.
        eos_id: the end-of-document token.
        context_length: what documents will be cut to [tokens].
        split: its name, for messages.

    Raises:
        DataError: nothing separates documents, or "train" is one document that does not fit into a window.
    """
    counts = np.zeros(-(-stream.n_tokens // _BLOCK_TOKENS), np.int64)
    n_documents = n_cut = n_kept = last_stop = 0
    for first in range(0, stream.n_tokens, _SCAN_TOKENS):
        tokens = stream.read(first, min(first + _SCAN_TOKENS, stream.n_tokens))
        stops = first + np.flatnonzero(tokens == eos_id) + 1
        np.add.at(counts, (stops - 1) // _BLOCK_TOKENS, 1)
        if first + len(tokens) == stream.n_tokens and tokens[-1] != eos_id:
            stops = np.append(stops, stream.n_tokens)
        lengths = np.diff(stops, prepend=last_stop)
        n_documents += len(stops)
        n_cut += int((lengths > context_length).sum())
        n_kept += int(np.minimum(lengths, context_length).sum())
        last_stop = int(stops[-1]) if len(stops) else last_stop
    if not counts.any() or (split == "train" and n_documents == 1 and n_cut):
        found = f"is one document of {stream.n_tokens:,} tokens" if counts.any() else f"has no end token (id {eos_id})"
        raise DataError(
            f'The {split} split {found}; packing = "padded" gives each document one window of {context_length:,} '
            "tokens and leaves out the rest. Use --data.packing stream, or prepare the text with --data.separator."
        )
    return DocumentIndex(stream, eos_id, n_documents, n_cut, n_kept, np.concatenate([[0], counts.cumsum()]))


def read_padded(
    index: DocumentIndex, numbers: NDArray[np.int64], context_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The windows of documents `numbers` [n]: inputs and targets [n, context_length].

    A document's targets are its tokens, its end token included; its inputs are the same, one later, after an end token
    that opens it: as at generation. Past its end, inputs are end tokens and targets `IGNORED`. Of a longer document
    the first `context_length` targets are taken.

    Raises:
        DataError: a token is not an id of the tokenizer; the message names the file and the offset in it.
    """
    inputs = np.full((len(numbers), context_length), index.eos_id, np.int64)
    targets = np.full((len(numbers), context_length), IGNORED, np.int64)
    for row, number in enumerate(numbers.tolist()):
        start = index.start(number)
        tokens = index.stream.read(start, min(start + context_length, index.stream.n_tokens))
        ends = np.flatnonzero(tokens == index.eos_id)
        n_tokens = int(ends[0]) + 1 if len(ends) else len(tokens)
        targets[row, :n_tokens] = tokens[:n_tokens]
        inputs[row, 1:n_tokens] = tokens[: n_tokens - 1]
    return inputs, targets
