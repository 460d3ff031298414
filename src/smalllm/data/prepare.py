"""Turns documents into shards: encode, mark the end of each document, split into train and val, write.

Memory stays bounded by a few megabytes of text, whatever the size of the data. Progress is saved whenever a
shard is finished and every 64 MB of text; after a crash the same call continues from there, and ends with the
same bytes as a call that was never interrupted. Where documents come from is `sources.py`; what encodes them
is an argument.
"""

import errno
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smalllm.data.document import Document
from smalllm.data.manifest import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    Floor,
    Manifest,
    Split,
    TokenizerFacts,
    dtype_for,
    read_manifest,
    write_manifest,
)
from smalllm.data.pieces import EncodeBatch, Piece, assign_splits, batch_pieces, encode_pieces, skip_pieces
from smalllm.data.progress import Progress, differences, read_progress, write_progress
from smalllm.data.shards import check_sizes
from smalllm.data.writer import SplitWriter, remove_shards, shard_paths
from smalllm.errors import ConfigError, DataError

PROGRESS_BYTES = 64 << 20
_LOCK_NAME = ".prepare.lock"

Documents = Callable[[], Iterable[Document]]
OnProgress = Callable[[int, int, int], None]


class _Totals(NamedTuple):
    """What both writers have taken so far, and how many files they have finished."""

    documents: int
    text_bytes: int
    tokens: int
    files: int

    @classmethod
    def of(cls, writers: Mapping[str, SplitWriter]) -> "_Totals":
        return cls(*map(sum, zip(*((*w.totals, w.n_finished) for w in writers.values()), strict=True)))


def prepare_shards(
    documents: Documents,
    *,
    encode_batch: EncodeBatch,
    tokenizer: TokenizerFacts,
    out: Path,
    val_fraction: float,
    shard_tokens: int,
    source: Mapping[str, Any],
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Write the data directory `out` and return its manifest.

    A document goes to the split it names, else by its text: to val if the first 8 bytes of its sha256, as a
    fraction of 2^64, are below `val_fraction`. So neither the order of the documents nor what else there is
    changes where one goes, and equal documents are never on both sides. The rest of a document that comes in
    pieces follows its first piece.

    A directory that already holds the result of the same call is returned as it is; the same call is one with
    the same tokenizer, val_fraction, shard_tokens and source, the last of which must therefore identify the
    text.

    Args:
        documents: starts the documents from the first, the same ones in the same order at each call.
        encode_batch: texts to token ids, without end-of-document tokens; must encode each text by itself.
        tokenizer: of which the end-of-document id is appended to every document.
        out: the directory, created if absent.
        val_fraction: share of the documents without a split of their own that go to val.
        shard_tokens: tokens per file, at most.
        source: what the manifest says of the origin, as JSON values; val_fraction and shard_tokens are added.
        on_progress: called after every batch with documents, bytes of text and tokens so far.

    Raises:
        ConfigError: shard_tokens is not positive.
        DataError: no documents, none for one of the splits, a directory in use or with other data in it, an
            id that the tokenizer cannot have, or a full disk.
    """
    if shard_tokens < 1:
        raise ConfigError(
            f"data.shard_tokens is {shard_tokens}; a shard holds at least 1 token. Leave it at its default."
        )
    asked = {**source, "val_fraction": val_fraction, "shard_tokens": shard_tokens}
    # As they will be read back: tuples become lists.
    arguments = json.loads(json.dumps({"tokenizer": asdict(tokenizer), "source": asked}))
    # Looked for before the lock is taken, so that finished data on a read-only disk can be used.
    if (finished := _finished(out, arguments)) is not None:
        return finished
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _sole_writer(out):
            finished = _finished(out, arguments)
            return finished or _write(documents, encode_batch, out=out, arguments=arguments, on_progress=on_progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"{out}: the disk is full ({error.strerror}). The work recorded in {PROGRESS_NAME} is kept, "
            "finished shards included. Free some space and run the same command again: it continues."
        ) from error


def _write(
    documents: Documents,
    encode_batch: EncodeBatch,
    *,
    out: Path,
    arguments: Mapping[str, Any],
    on_progress: OnProgress | None,
) -> Manifest:
    progress = _begun(out, arguments)
    tokenizer, source = TokenizerFacts(**arguments["tokenizer"]), arguments["source"]
    dtype = dtype_for(tokenizer.vocab_size)
    writer = partial(SplitWriter, out, dtype=dtype, shard_tokens=source["shard_tokens"])
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(closing(writer(split=split, state=state)))
            for split, state in progress.writers.items()
        }
        rest = skip_pieces(documents(), progress.pieces)
        pieces = assign_splits(rest, val_fraction=source["val_fraction"], split=progress.split)
        saved = _Totals.of(writers)
        for batch in batch_pieces(pieces):
            encoded = encode_pieces(batch, encode_batch, tokenizer=tokenizer)
            for piece, ids in zip(batch, encoded, strict=True):
                writers[piece.split].add(ids, documents=piece.document.final, text_bytes=piece.text_bytes)
            progress, now = _advanced(progress, batch), _Totals.of(writers)
            if now.files > saved.files or now.text_bytes - saved.text_bytes >= PROGRESS_BYTES:
                write_progress(out, replace(progress, writers={s: w.sync() for s, w in writers.items()}))
                saved = now
            if on_progress is not None:
                on_progress(now.documents, now.text_bytes, now.tokens)
        if progress.split is not None:
            # The last document had no final piece: the end of the stream ends it.
            writers[progress.split].add(np.array([tokenizer.eos_id]), documents=1, text_bytes=0)
        splits = {name: Split(writer.finish()) for name, writer in writers.items()}
    return _completed(out, tokenizer, splits, source=source, nats=progress.nats)


def _completed(
    out: Path,
    tokenizer: TokenizerFacts,
    splits: Mapping[str, Split],
    *,
    source: Mapping[str, Any],
    nats: float | None,
) -> Manifest:
    """Write the manifest, or remove the shards if a split is empty: they serve no call that could follow."""
    n_documents = sum(split.documents for split in splits.values())
    val = splits["val"]
    if not all(split.files for split in splits.values()):
        remove_shards(out)
        (out / PROGRESS_NAME).unlink()
        if n_documents == 0:
            raise DataError("Found no documents. Expected text: look at the source's files, URL and column names.")
        empty, advice = ("train", "smaller") if val.files else ("val", "larger")
        raise DataError(
            f"None of the {n_documents:,} documents went to {empty} with val_fraction "
            f"{source['val_fraction']}; both splits need some. Set a {advice} data.val_fraction, give the "
            "validation text apart with data.val_files, or prepare more documents."
        )
    floor = None if nats is None else Floor(nats, val.text_bytes, val.documents)
    manifest = Manifest(tokenizer, splits, source, floor)
    write_manifest(out, manifest)
    (out / PROGRESS_NAME).unlink()
    return manifest


def _finished(out: Path, arguments: Mapping[str, Any]) -> Manifest | None:
    """The manifest that is already there, if these arguments made it."""
    if not (out / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(out)
    found = {"tokenizer": asdict(manifest.tokenizer), "source": manifest.source}
    if different := differences(found, arguments):
        raise DataError(
            f"{out}: holds other data, already prepared: {different}. "
            "Choose another directory with --out, or delete this one to prepare it anew."
        )
    for split in manifest.splits.values():
        check_sizes(out, split.files, dtype=manifest.dtype)
    if (out / PROGRESS_NAME).exists():
        # The process that wrote the manifest was stopped before it could do this.
        (out / PROGRESS_NAME).unlink()
    return manifest


def _begun(out: Path, arguments: Mapping[str, Any]) -> Progress:
    """The progress to continue from; afterwards the directory holds no shards beyond it."""
    progress = read_progress(out, arguments)
    if progress is None:
        if found := shard_paths(out):
            raise DataError(
                f"{out}: holds {found[0].name}, but no {MANIFEST_NAME} or {PROGRESS_NAME} to say what it is; "
                "expected no shards. Choose another directory with --out, or delete this one."
            )
        progress = Progress(arguments)
        # Before the first shard: from here on the shards in this directory are known to be ours.
        write_progress(out, progress)
    remove_shards(out, keep=progress.writers)
    return progress


def _advanced(progress: Progress, batch: list[Piece]) -> Progress:
    last, nats = batch[-1], progress.nats
    for piece in batch:
        if piece.split == "val" and nats is not None:
            nats = None if piece.document.log_prob is None else nats - piece.document.log_prob
    split = None if last.document.final else last.split
    return replace(progress, pieces=progress.pieces + len(batch), split=split, nats=nats)


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    with (out / _LOCK_NAME).open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise DataError(
                f"{out}: another process is preparing data here, and only one can. Wait until it ends, or "
                "choose another directory with --out."
            ) from None
        yield
