"""A data directory while it is being made: who may write, what is there already, and how it is completed.

Private to `prepare.py`, which fills it.
"""

import errno
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smalllm.data.dedup import remove_seen
from smalllm.data.durable import sync_directory
from smalllm.data.manifest import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    Floor,
    Manifest,
    Split,
    TokenizerFacts,
    read_manifest,
    write_manifest,
)
from smalllm.data.progress import Progress, differences, read_progress, write_progress
from smalllm.data.shards import check_sizes
from smalllm.data.summary import SUMMARY_NAME, write_summary
from smalllm.data.writer import remove_shards, shard_paths
from smalllm.errors import DataError

_LOCK_NAME = ".prepare.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def complete(
    out: Path, tokenizer: TokenizerFacts, splits: Mapping[str, Split], progress: Progress, *, is_part: bool = False
) -> Manifest:
    """Write summary and manifest, or remove the shards if a split is empty: they serve no call that could follow.

    Raises:
        DataError: a split is empty, and this is not a part of a whole.
    """
    source = progress.arguments["source"]
    n_documents = sum(split.documents for split in splits.values())
    val = splits["val"]
    if not is_part and not all(split.files for split in splits.values()):
        remove_shards(out)
        remove_seen(out)
        (out / PROGRESS_NAME).unlink()
        if n_documents == 0:
            raise DataError("Found no documents. Expected text: look at the source's files, URL and column names.")
        empty, advice = ("train", "smaller") if val.files else ("val", "larger")
        raise DataError(
            f"None of the {n_documents:,} documents went to {empty} with val_fraction "
            f"{source['val_fraction']}; both splits need some. Set a {advice} data.val_fraction, give the "
            "validation text apart with data.val_files, or prepare more documents."
        )
    floor = None if progress.nats is None or not val.documents else Floor(progress.nats, val.text_bytes, val.documents)
    manifest = Manifest(tokenizer, splits, source, floor)
    write_summary(out, progress.tally)
    write_manifest(out, manifest)  # the last: what has a manifest is complete
    remove_seen(out)
    (out / PROGRESS_NAME).unlink()
    return manifest


def clear(out: Path) -> None:
    """Delete what a preparation wrote, finished or not; the manifest first, which vouches for the rest."""
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    sync_directory(out)
    remove_shards(out)
    remove_seen(out)
    for name in (SUMMARY_NAME, PROGRESS_NAME):
        (out / name).unlink(missing_ok=True)


def finished_manifest(out: Path, arguments: Mapping[str, Any]) -> Manifest | None:
    """The manifest that is already there, if these arguments made it.

    Raises:
        DataError: the directory holds other data, or files that its manifest does not describe.
    """
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
        remove_seen(out)
        (out / PROGRESS_NAME).unlink()
    return manifest


def begin(out: Path, arguments: Mapping[str, Any]) -> Progress:
    """The progress to continue from; afterwards the directory holds no shards beyond it.

    Raises:
        DataError: the directory holds shards of unknown origin, or the unfinished preparation of other data.
    """
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


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keep other processes out of the directory; the lock goes with its process.

    Raises:
        DataError: another process is at work there.
    """
    with (out / _LOCK_NAME).open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise DataError(
                f"{out}: another process is preparing data here, and only one can. Wait until it ends, or "
                "choose another directory with --out."
            ) from None
        yield


@contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Say what a full disk means here.

    Raises:
        DataError: no space or quota is left, or a file may not grow further.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"{out}: the disk is full ({error.strerror}). The work recorded in {PROGRESS_NAME} is kept, "
            "finished shards included. Free some space and run the same command again: it continues."
        ) from error
