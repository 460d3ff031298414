"""From a stream of documents to batches of token ids, each known to be of train or of val.

Private to `prepare.py`. Nothing is written here, and nothing is kept but a batch.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smalllm.data.document import Document
from smalllm.data.manifest import TokenizerFacts, dtype_for
from smalllm.errors import DataError
from smalllm.protocols import Encoded

BATCH_BYTES = 1 << 20


class Piece(NamedTuple):
    """A document, or a part of one, in UTF-8 and with the split it goes to.

    `number` counts the pieces of the source from 0, and `dropped` the duplicates among the documents before this one.
    """

    raw: bytes
    origin: str
    split: str
    final: bool
    log_prob: float | None
    number: int
    dropped: int = 0


class Batch(NamedTuple):
    """The token ids of consecutive pieces: `ids` one after the other, `lengths` of each piece, its end included."""

    pieces: list[Piece]
    ids: NDArray[Any]
    lengths: NDArray[np.int64]


def assign_splits(
    documents: Iterable[Document], *, val_fraction: float, split: str | None, start: int = 0
) -> Iterator[Piece]:
    """Give every document its split: its own, or val if the hash of its text is below `val_fraction`, else
    train.

    Args:
        documents: complete documents, or consecutive pieces of them, of which the first decides for all.
        val_fraction: share of the hashes that go to val.
        split: where the first of `documents` goes if it continues a document that began before, else None.
        start: how many pieces came before.

    Raises:
        DataError: a text that has no UTF-8 form.
    """
    for number, document in enumerate(documents, start):
        try:
            raw = document.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{document.origin}: character {error.start} is half of a surrogate pair; expected text that "
                "UTF-8 can hold. Repair or remove this document."
            ) from None
        if split is None:
            split = document.split or split_by_hash(raw, val_fraction)
        yield Piece(raw, document.origin, split, document.final, document.log_prob, number)
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
        size_bytes += len(piece.raw) + 1
        if size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def end_documents(pieces: list[Piece], encoded: Encoded, *, tokenizer: TokenizerFacts) -> Batch:
    """Put the end-of-document id after each piece that ends a document.

    Raises:
        DataError: an id is not in 0 … vocab_size - 1.
    """
    ids, lengths = encoded
    borders = np.cumsum(lengths)
    if len(ids) and (ids.max() >= tokenizer.vocab_size or (ids.dtype.kind == "i" and ids.min() < 0)):
        wrong = int(np.flatnonzero((ids < 0) | (ids >= tokenizer.vocab_size))[0])
        origin = pieces[int(np.searchsorted(borders, wrong, side="right"))].origin
        raise DataError(
            f"{origin}: the tokenizer gave id {ids[wrong]}; expected ids below its vocab_size, "
            f"{tokenizer.vocab_size}. Rebuild the tokenizer: its files do not belong together."
        )
    final = np.fromiter((piece.final for piece in pieces), bool, count=len(pieces))
    as_stored = ids.astype(dtype_for(tokenizer.vocab_size), copy=False)
    return Batch(pieces, np.insert(as_stored, borders[final], tokenizer.eos_id), lengths + final)


def part_of(batch: Batch, split: str) -> Batch:
    """What of a batch goes to one split."""
    kept = np.fromiter((piece.split == split for piece in batch.pieces), bool, count=len(batch.pieces))
    if kept.all():
        return batch
    pieces = [piece for piece, is_kept in zip(batch.pieces, kept, strict=True) if is_kept]
    return Batch(pieces, batch.ids[np.repeat(kept, batch.lengths)], batch.lengths[kept])
