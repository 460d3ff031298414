"""Turns documents into shards: encode, mark the end of each document, split into train and val, write.

Memory stays bounded by a few megabytes of text, whatever the size of the data. Progress is saved whenever a
shard is finished, every 64 MB of text, and when something goes wrong; the same call continues from there, and
ends with the same bytes as a call that was never interrupted. Where documents come from is `sources.py`; what
encodes them, here or in other processes, is an argument.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.data.dedup import Deduplicator
from smalllm.data.directory import begin, clear, complete, finished_manifest, full_disk_told, sole_writer
from smalllm.data.document import Document
from smalllm.data.manifest import Manifest, Split, TokenizerFacts, dtype_for
from smalllm.data.pieces import Batch, Piece, assign_splits, batch_pieces, end_documents, part_of, skip_pieces
from smalllm.data.progress import Progress, write_progress
from smalllm.data.summary import Tally, count_batch, end_open
from smalllm.data.writer import SplitWriter
from smalllm.errors import ConfigError, DataError, EncodingError
from smalllm.protocols import EncodeAll

PROGRESS_BYTES = 64 << 20

Documents = Callable[[], Iterable[Document]]
OnProgress = Callable[[Tally], None]


def prepare_shards(
    documents: Documents,
    *,
    encode: EncodeAll,
    tokenizer: TokenizerFacts,
    out: Path,
    val_fraction: float,
    shard_tokens: int,
    source: Mapping[str, Any],
    dedup: bool = False,
    is_partial: NDArray[np.bool_] | None = None,
    on_begin: Callable[[], None] | None = None,
    on_progress: OnProgress | None = None,
    is_part: bool = False,
    redo: bool = False,
) -> Manifest:
    """Write the data directory `out` and return its manifest.

    A document goes to the split it names, else by its text: to val if the first 8 bytes of its sha256, as a
    fraction of 2^64, are below `val_fraction`. So neither the order of the documents nor what else there is
    changes where one goes, and equal documents are never on both sides. The rest of a document that comes in
    pieces follows its first piece.

    A directory that already holds the result of the same call is returned as it is; the same call is one with
    the same tokenizer, val_fraction, shard_tokens, dedup and source, the last of which must therefore identify
    the text.

    Args:
        documents: starts the documents from the first, the same ones in the same order at each call.
        encode: batches of texts to token ids, without end-of-document tokens; must encode each text by itself.
        tokenizer: of which the end-of-document id is appended to every document.
        out: the directory, created if absent.
        val_fraction: share of the documents without a split of their own that go to val.
        shard_tokens: tokens per file, at most.
        source: what the manifest says of the origin, as JSON values; val_fraction and shard_tokens are added.
        dedup: leave out documents whose whole text came before.
        is_partial: for each id, whether it stands for a part of a character; absent: not counted.
        on_begin: called when there is something to do and `out` is this call's alone, before the first document is
            read: writes what else belongs there.
        on_progress: called after every batch with the counts so far.
        is_part: `out` is a part of a whole (see `parts.py`), so a split may be empty, or both.
        redo: delete what an earlier call left in `out`, finished or not, and begin at the first document.

    Raises:
        ConfigError: shard_tokens is not positive.
        DataError: no documents, none for one of the splits, a directory in use or with other data in it, an
            id that the tokenizer cannot have, a text it cannot encode, or a full disk.
    """
    if shard_tokens < 1:
        raise ConfigError(
            f"data.shard_tokens is {shard_tokens}; a shard holds at least 1 token. Leave it at its default."
        )
    asked = {**source, "val_fraction": val_fraction, "shard_tokens": shard_tokens} | ({"dedup": True} if dedup else {})
    # As they will be read back: tuples become lists.
    arguments = json.loads(json.dumps({"tokenizer": asdict(tokenizer), "source": asked}))
    # Looked for before the lock is taken, so that finished data on a read-only disk can be used.
    if not redo and (finished := finished_manifest(out, arguments)) is not None:
        return finished
    if is_partial is None:
        is_partial = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
    with full_disk_told(out):
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out):
            if redo:
                clear(out)
            if (finished := finished_manifest(out, arguments)) is not None:
                return finished
            begun = begin(out, arguments)
            if on_begin is not None:
                on_begin()
            splits, progress = _write(documents, encode, out, begun, is_partial, on_progress)
            return complete(out, tokenizer, splits, progress, is_part=is_part)


def tally_documents(
    documents: Iterable[Document],
    *,
    encode: EncodeAll,
    tokenizer: TokenizerFacts,
    is_partial: NDArray[np.bool_],
    seen: Deduplicator | None = None,
) -> Tally:
    """Encode documents and count, as `prepare_shards` would; nothing is written.

    Raises:
        DataError: an id that the tokenizer cannot have, or a text it cannot encode.
    """
    progress = Progress({"source": {"val_fraction": 0.0}})
    for batch in _encoded(documents, encode, progress, seen, tokenizer):
        progress = _advanced(progress, batch, is_partial)
    tally = progress.tally if progress.split is None else end_open(progress.tally)
    return tally if seen is None else replace(tally, duplicates=seen.dropped)


def _write(
    documents: Documents,
    encode: EncodeAll,
    out: Path,
    progress: Progress,
    is_partial: NDArray[np.bool_],
    on_progress: OnProgress | None,
) -> tuple[Mapping[str, Split], Progress]:
    tokenizer, source = TokenizerFacts(**progress.arguments["tokenizer"]), progress.arguments["source"]
    with ExitStack() as stack:
        writers = _open_writers(stack, out, progress, tokenizer)
        seen = None
        if "dedup" in source:
            seen = stack.enter_context(closing(Deduplicator(out, dropped=progress.tally.duplicates)))
        batches = _encoded(documents(), encode, progress, seen, tokenizer)
        saved, n_saved = progress, _n_finished(writers)
        while True:
            try:
                batch = next(batches, None)
            except BaseException:
                # Nothing is half done between two batches: what there is can be kept, if the disk allows.
                with suppress(OSError, DataError):
                    _save(out, progress, writers, seen)
                raise
            if batch is None:
                break
            for split, writer in writers.items():
                writer.add_batch(part_of(batch, split))
            progress = _advanced(progress, batch, is_partial)
            grown_bytes = progress.tally.text_bytes - saved.tally.text_bytes
            if _n_finished(writers) > n_saved or grown_bytes >= PROGRESS_BYTES:
                _save(out, progress, writers, seen)
                saved, n_saved = progress, _n_finished(writers)
            if on_progress is not None:
                on_progress(progress.tally)
        if progress.split is not None:
            # The last document had no final piece: the end of the stream ends it.
            writers[progress.split].add(np.array([tokenizer.eos_id]), documents=1, text_bytes=0)
            progress = replace(progress, tally=end_open(progress.tally))
        if seen is not None:
            progress = replace(progress, tally=replace(progress.tally, duplicates=seen.dropped))
        return {name: Split(writer.finish()) for name, writer in writers.items()}, progress


def _open_writers(
    stack: ExitStack, out: Path, progress: Progress, tokenizer: TokenizerFacts
) -> Mapping[str, SplitWriter]:
    dtype, shard_tokens = dtype_for(tokenizer.vocab_size), progress.arguments["source"]["shard_tokens"]
    return {
        split: stack.enter_context(
            closing(SplitWriter(out, split, dtype=dtype, shard_tokens=shard_tokens, state=state))
        )
        for split, state in progress.writers.items()
    }


def _encoded(
    documents: Iterable[Document],
    encode: EncodeAll,
    progress: Progress,
    seen: Deduplicator | None,
    tokenizer: TokenizerFacts,
) -> Iterator[Batch]:
    """The batches that come after `progress`, encoded; some are read ahead of those that are given."""
    rest = skip_pieces(documents, progress.pieces)
    val_fraction = progress.arguments["source"]["val_fraction"]
    pieces = assign_splits(rest, val_fraction=val_fraction, split=progress.split, start=progress.pieces)
    if seen is not None:
        pieces = seen.drop(pieces, inside=progress.split is not None)
    under_way: deque[list[Piece]] = deque()

    def texts() -> Iterator[list[bytes]]:
        for batch in batch_pieces(pieces):
            under_way.append(batch)
            yield [piece.raw for piece in batch]

    encoded = encode(texts())
    while True:
        try:
            ids = next(encoded, None)
        except EncodingError as error:
            raise DataError(
                f"{under_way[0][error.index].origin}: the tokenizer could not encode this text ({error}). Remove or "
                "repair it, or use another tokenizer."
            ) from error
        if ids is None:
            return
        yield end_documents(under_way.popleft(), ids, tokenizer=tokenizer)


def _save(out: Path, progress: Progress, writers: Mapping[str, SplitWriter], seen: Deduplicator | None) -> None:
    """Wait until the disk has everything up to `progress`, and then `progress` itself."""
    if seen is not None:
        seen.commit()
    write_progress(out, replace(progress, writers={split: writer.sync() for split, writer in writers.items()}))


def _n_finished(writers: Mapping[str, SplitWriter]) -> int:
    return sum(writer.n_finished for writer in writers.values())


def _advanced(progress: Progress, batch: Batch, is_partial: NDArray[np.bool_]) -> Progress:
    last, nats = batch.pieces[-1], progress.nats
    for piece in batch.pieces:
        if piece.split == "val" and nats is not None:
            nats = None if piece.log_prob is None else nats - piece.log_prob
    split = None if last.final else last.split
    tally = count_batch(progress.tally, batch, is_partial=is_partial)
    return replace(progress, pieces=last.number + 1, split=split, nats=nats, tally=tally)
