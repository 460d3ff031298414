"""Training text straight from its files, in an order that is a pure function of seed, rank and position.

An epoch goes through the files in an order shuffled anew. The training documents of a file are cut into blocks of
`shuffle_buffer` documents; each block is shuffled by itself and belongs to one rank. A rank's tokens are its
blocks one after the other, an end token after each document, and its windows are cut from them without a gap.
So a `Position`, four numbers, is all that a checkpoint must keep; what lies before it in the file is read again
on a resume, and nothing else. Encoding ahead of training is `feed.py`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from smalllm.data.document import Document
from smalllm.data.manifest import TokenizerFacts, dtype_for
from smalllm.data.permutation import shuffle_positions
from smalllm.data.pieces import Piece, assign_splits, end_documents
from smalllm.errors import DataError
from smalllm.protocols import Encoded

BLOCK_BYTES = 32 << 20
"""A block of long documents ends early, so that memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a window begins: the `token`-th token of a rank's block `block` of the epoch's `file`-th file."""

    epoch: int = 0
    file: int = 0
    block: int = 0
    token: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """The files of a stream and how they are gone through.

    Attributes:
        n_files: how many there are.
        open_file: the documents of file i, the same ones in the same order at each call.
        val_fraction: share of the documents held out by their hash; 0 where validation has files of its own.
        shuffle_buffer: documents shuffled together.
        seed: decides the order.
        rank: this process, 0 … n_ranks - 1.
        n_ranks: how many processes share the text.
    """

    n_files: int
    open_file: Callable[[int], Iterable[Document]]
    val_fraction: float
    shuffle_buffer: int
    seed: int
    rank: int = 0
    n_ranks: int = 1


def read_blocks(texts: Texts, start: Position) -> Iterator[tuple[Position, list[Piece]]]:
    """The blocks of one rank from the one that `start` lies in, shuffled, epoch after epoch without end.

    Over all ranks, each training document comes once per epoch. A document longer than the readers hold at once
    comes in several pieces, which are documents of their own here.

    Args:
        texts: what to read.
        start: its token is not looked at.

    Yields:
        Where the block begins, and its documents.

    Raises:
        DataError: no training document in a whole epoch, or what a reader raises.
    """
    for epoch in count(start.epoch):
        n_blocks = 0
        first_file = start.file if epoch == start.epoch else 0
        for number, file in enumerate(file_order(texts, epoch)):
            if number < first_file:
                continue
            skipped = start.block if epoch == start.epoch and number == first_file else 0
            for block, pieces in enumerate(_cut_blocks(texts, file)):
                n_blocks += 1
                if block >= skipped and (epoch + number + block) % texts.n_ranks == texts.rank:
                    yield Position(epoch, number, block), _shuffled(pieces, texts.seed, epoch, file, block)
        if not n_blocks and not first_file:
            raise DataError(
                "Found no documents to train on: every one is held out for validation, or there are none. "
                "Set a smaller data.val_fraction, or look at the files"
            )


def file_order(texts: Texts, epoch: int) -> list[int]:
    """The order in which an epoch goes through the files."""
    first = epoch * texts.n_files
    positions = np.arange(first, first + texts.n_files, dtype=np.uint64)
    order: list[int] = shuffle_positions(texts.seed, positions, n=texts.n_files).tolist()
    return order


def encode_block(
    pieces: list[Piece], *, encode: Callable[[Sequence[str]], Encoded], tokenizer: TokenizerFacts
) -> NDArray:
    """The tokens of a block, an end token after each document, in the smallest integer type."""
    encoded = encode([piece.raw.decode() for piece in pieces])
    return end_documents(pieces, encoded, tokenizer=tokenizer).ids.astype(dtype_for(tokenizer.vocab_size))


def _cut_blocks(texts: Texts, file: int) -> Iterator[list[Piece]]:
    block: list[Piece] = []
    n_bytes = 0
    for piece in assign_splits(texts.open_file(file), val_fraction=texts.val_fraction, split=None):
        if piece.split != "train":
            continue
        block.append(piece._replace(final=True))
        n_bytes += len(piece.raw)
        if len(block) >= texts.shuffle_buffer or n_bytes >= BLOCK_BYTES:
            yield block
            block, n_bytes = [], 0
    if block:
        yield block


def _shuffled(pieces: list[Piece], seed: int, epoch: int, file: int, block: int) -> list[Piece]:
    if len(pieces) == 1:
        return pieces
    digest = hashlib.sha256(f"{seed} {epoch} {file} {block}".encode()).digest()
    order = shuffle_positions(int.from_bytes(digest[:8]), np.arange(len(pieces), dtype=np.uint64), n=len(pieces))
    return [pieces[i] for i in order.tolist()]
