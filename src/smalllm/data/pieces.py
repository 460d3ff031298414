"""From a stream of documents to batches of token ids, each known to be of train or of val.

Private to `prepare.py`. Nothing is written here, and nothing is kept but one batch.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smalllm.data.document import Document
from smalllm.data.manifest import TokenizerFacts
from smalllm.errors import DataError

BATCH_BYTES = 4 << 20

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]


class Piece(NamedTuple):
    """A document, or a part of one, with the split it goes to and its UTF-8 length [bytes]."""

    document: Document
    split: str
    text_bytes: int


def assign_splits(documents: Iterable[Document], *, val_fraction: float, split: str | None) -> Iterator[Piece]:
    """Give every document its split: its own, or val if the hash of its text is below `val_fraction`, else
    train.

    Args:
        documents: complete documents, or consecutive pieces of them, of which the first decides for all.
        val_fraction: share of the hashes that go to val.
        split: where the first of `documents` goes if it continues a document that began before, else None.

    Raises:
        DataError: a text that has no UTF-8 form.
    """
    for document in documents:
        try:
            raw = document.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{document.origin}: character {error.start} is half of a surrogate pair; expected text that "
                "UTF-8 can hold. Repair or remove this document."
            ) from None
        if split is None:
            split = document.split or split_by_hash(raw, val_fraction)
        yield Piece(document, split, len(raw))
        if document.final:
            split = None


def skip_pieces(documents: Iterable[Document], n_pieces: int) -> Iterator[Document]:
    """The documents after the first `n_pieces`, which an earlier process has consumed.

    Raises:
        DataError: there are not so many.
    """
    rest = iter(documents)
    n_found = sum(1 for _ in islice(rest, n_pieces))
    if n_found < n_pieces:
        raise DataError(
            f"The unfinished preparation had read {n_pieces:,} documents or pieces of them; the source now "
            f"has {n_found:,}: it has changed. Restore it, or delete the directory and prepare data again."
        )
    return rest


def split_by_hash(raw: bytes, val_fraction: float) -> str:
    """The split of a text: its sha256's first 8 bytes as a fraction of 2^64, compared with `val_fraction`."""
    return "val" if int.from_bytes(hashlib.sha256(raw).digest()[:8]) / 2**64 < val_fraction else "train"


def batch_pieces(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Lists of consecutive pieces with just over BATCH_BYTES of text each; the last one has what is left."""
    batch: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        batch.append(piece)
        # One more byte each, so that even empty texts fill a batch.
        size_bytes += piece.text_bytes + 1
        if size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def encode_pieces(
    batch: Sequence[Piece], encode_batch: EncodeBatch, *, tokenizer: TokenizerFacts
) -> list[NDArray[np.int64]]:
    """The token ids of each piece, with the end-of-document id after each piece that ends a document.

    Raises:
        DataError: `encode_batch` gave an id that is not in 0 … vocab_size - 1.
    """
    encoded = encode_batch([piece.document.text for piece in batch])
    rows = [
        [*ids, tokenizer.eos_id] if piece.document.final else ids for piece, ids in zip(batch, encoded, strict=True)
    ]
    # One array for the whole batch, cut into views: an array per document costs more than all the rest here.
    flat = np.fromiter(chain.from_iterable(rows), np.int64, count=sum(map(len, rows)))
    borders = np.cumsum([0, *map(len, rows)]).tolist()
    if flat.size and (flat.min() < 0 or flat.max() >= tokenizer.vocab_size):
        wrong = int(np.flatnonzero((flat < 0) | (flat >= tokenizer.vocab_size))[0])
        origin = batch[int(np.searchsorted(borders, wrong, side="right")) - 1].document.origin
        raise DataError(
            f"{origin}: the tokenizer gave id {flat[wrong]}; expected ids below its vocab_size, "
            f"{tokenizer.vocab_size}. Rebuild the tokenizer: its files do not belong together."
        )
    return [flat[start:stop] for start, stop in pairwise(borders)]
