"""`data.mode = "stream"`: training text encoded on the fly, and the small data directory that stands beside it.

The directory holds what must stay the same: the tokenizer, a fixed validation split, and the head of the training
text, whose token counts are the unigram baseline. The rest is read from its files while the model trains.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from smalllm.api import hub
from smalllm.api.files import choose_files, file_facts, is_one_text
from smalllm.config import DataConfig, RunConfig
from smalllm.data.document import Document
from smalllm.data.feed import FeedBatches, WindowFeed
from smalllm.data.manifest import Manifest
from smalllm.data.pieces import assign_splits
from smalllm.data.progress import differences
from smalllm.data.sources import read_files
from smalllm.data.stream import Position, Texts, encode_block, read_blocks
from smalllm.errors import CheckpointError, ConfigError, DataError
from smalllm.protocols import Tokenizer
from smalllm.training.distributed import ALONE, Ranks

VAL_BYTES = 6_000_000
"""Validation text that is kept, about 1.3 million GPT-2 tokens [bytes]."""
HEAD_BYTES = 20_000_000
"""Training text that is kept: a tokenizer is trained on it, and token frequencies are counted [bytes]."""
SCAN_BYTES = 4_000_000_000
"""Where the search for documents held out by their hash ends, if the head is full [bytes]."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Text to stream.

    Attributes:
        n_files: files to train on.
        open_file: the documents of one of them; a file on the Hub is fetched when its turn comes.
        open_val: the documents of validation files; None where documents are held out by their hash.
        facts: what the manifest says of them.
    """

    n_files: int
    open_file: Callable[[int], Iterable[Document]]
    open_val: Callable[[], Iterable[Document]] | None
    facts: dict[str, Any]


def open_text(data: DataConfig, notice: Notice) -> Source:
    """Find the files of a stream; none is opened yet.

    Raises:
        DataError: files that are missing or all held out, or one long text, which has no documents to put in order.
        ConfigError: a source that cannot be streamed.
    """
    stream_facts = {"mode": "stream", "val_bytes": VAL_BYTES, "head_bytes": HEAD_BYTES}
    if data.source == "hub" and not data.files:
        text = hub.find_text(data, notice)
        open_val = partial(hub.read_val, text, data, notice) if text.choice.val else None
        n_files = 1 if text.by_datasets else len(text.choice.train)
        open_file = partial(hub.read_train, text, data, notice)
        return Source(n_files, open_file, open_val, {**text.facts, **stream_facts})
    files, val_files = choose_files(data)
    if not files:
        raise ConfigError('data.mode = "stream": needs data.files, or a data set of the Hub')
    if is_one_text(data, files):
        raise DataError(
            f"{files[0]} is one text without documents to put in order; say what separates them (--data.separator), "
            "or make shards of it (--data.mode shards)"
        )
    read = partial(read_files, separator=data.separator, text_column=data.text_column)
    facts = {**file_facts(data, files, val_files), **stream_facts}
    return Source(len(files), lambda i: read([files[i]]), (lambda: read(val_files)) if val_files else None, facts)


def head_documents(source: Source, *, val_fraction: float) -> Iterator[Document]:
    """The documents that the data directory keeps, each with its split: from the front of the files, in their order."""
    wanted = {"train": HEAD_BYTES, "val": VAL_BYTES}
    if source.open_val is not None:
        yield from _first(source.open_val(), wanted={"val": VAL_BYTES}, held_out=1.0)
        wanted, val_fraction = {"train": HEAD_BYTES}, 0.0
    everything = (document for i in range(source.n_files) for document in source.open_file(i))
    yield from _first(everything, wanted=wanted, held_out=val_fraction)


def open_batches(
    config: RunConfig,
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    n_workers: int,
    kept: dict[str, Any] | None,
    cursor: int,
    notice: Notice,
    rank: int = 0,
    n_ranks: int = 1,
) -> FeedBatches:
    """The windows of a run, from where it stands.

    Args:
        config: resolved.
        manifest: of the data directory; its source must be what the configuration finds now.
        tokenizer: of the data directory.
        n_workers: threads that encode; the order does not depend on it.
        kept: what `position_facts` gave for the checkpoint; None for a new run.
        cursor: windows consumed.
        notice: told of downloads.
        rank: this process among those that share the windows.
        n_ranks: how many they are.

    Raises:
        CheckpointError: the run was begun by another number of processes.
        DataError: the files are others than when the data directory was written.
    """
    source = open_text(config.data, notice)
    if different := differences({key: manifest.source.get(key) for key in source.facts}, source.facts):
        raise DataError(
            f"the text to stream has changed since its data directory was prepared: {different}. Restore the files, or "
            "choose another --data.path and --out to start anew"
        )
    texts = Texts(
        n_files=source.n_files,
        open_file=source.open_file,
        val_fraction=0.0 if source.open_val else manifest.source["val_fraction"],
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.train.seed,
        rank=rank,
        n_ranks=n_ranks,
    )
    if kept is not None and kept["n_ranks"] != n_ranks:
        raise CheckpointError(
            f"the run has streamed its text to {kept['n_ranks']} processes and cannot go on with {n_ranks}: each has a "
            "place of its own in the text. Start as many as before, or a new run with another --out"
        )
    encode = partial(encode_block, encode=tokenizer.encode_arrays, tokenizer=manifest.tokenizer)
    feed = WindowFeed(
        partial(read_blocks, texts),
        encode,
        start=Position(**kept["positions"][rank]) if kept else Position(),
        context_length=config.model.context_length,
        n_workers=n_workers,
    )
    n = config.train.tokens_per_step // config.model.context_length
    return FeedBatches(feed, cursor=cursor, n=n, n_ranks=n_ranks)


def position_facts(batches: FeedBatches, cursor: int, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What a checkpoint keeps of a stream: one position per data rank. All ranks must ask."""
    at = batches.position(cursor)
    rows = ranks.gather([at.epoch, at.file, at.block, at.token])[:: ranks.n_tensor]
    positions = [dict(zip(("epoch", "file", "block", "token"), map(int, row), strict=True)) for row in rows]
    return {"n_ranks": ranks.n_data, "positions": positions}


def _first(documents: Iterable[Document], *, wanted: dict[str, int], held_out: float) -> Iterator[Document]:
    """Documents until each split has its bytes; the document that fills a split is whole."""
    left, scanned, taking = dict(wanted), 0, False
    for piece in assign_splits(documents, val_fraction=held_out, split=None):
        scanned += len(piece.raw)
        taking = taking or left.get(piece.split, 0) > 0
        if taking:
            left[piece.split] -= len(piece.raw)
            yield Document(piece.raw.decode(), piece.origin, piece.split, final=piece.final)
        if not piece.final:
            continue
        taking = False
        full = [split for split, n_bytes in left.items() if n_bytes <= 0]
        if len(full) == len(left) or (scanned >= SCAN_BYTES and left.get("train", 0) <= 0):
            return
