"""How far a preparation has come: the file `.prepare.json` that lets the same call continue after a crash.

Private to `prepare.py`, and deleted when the manifest takes its place. What `arguments` holds is what the
manifest will say of the tokenizer and the source, so finished and unfinished data are compared with a call
alike.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smalllm.data.durable import sync_directory, write_json
from smalllm.data.manifest import PROGRESS_NAME, SPLITS, ShardFile
from smalllm.data.summary import Tally, tally_of
from smalllm.data.writer import SplitState
from smalllm.errors import DataError


@dataclass(frozen=True, slots=True)
class Progress:
    """What two writers had on disk when `pieces` pieces of documents had been consumed.

    `split` is where the rest of a document goes whose last piece has not come yet, else None. `nats` is minus
    the summed log-probability of the val documents, None once one of them came without. `tally` is what the summary
    will say.
    """

    arguments: Mapping[str, Any]
    pieces: int = 0
    split: str | None = None
    nats: float | None = 0.0
    writers: Mapping[str, SplitState] = field(default_factory=lambda: dict.fromkeys(SPLITS, SplitState()))
    tally: Tally = field(default_factory=Tally)


def write_progress(directory: Path, progress: Progress) -> None:
    """Save `progress` durably; the shards it counts on must have been synced before."""
    # The names of new shards first: progress must never be ahead of them.
    sync_directory(directory)
    write_json(directory / PROGRESS_NAME, asdict(progress))


def read_progress(directory: Path, arguments: Mapping[str, Any]) -> Progress | None:
    """The progress of an earlier call with the same `arguments`; None if nothing was begun in `directory`.

    Raises:
        DataError: what was begun there had other arguments, or its progress cannot be read.
    """
    path = directory / PROGRESS_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        writers = {split: _state(found["writers"][split]) for split in SPLITS}
        tally = tally_of(found["tally"])
        progress = Progress(found["arguments"], found["pieces"], found["split"], found["nats"], writers, tally)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"{path}: not the progress of an unfinished preparation, or damaged. "
            f"Delete the directory {directory} and prepare the data again."
        ) from None
    if different := differences(progress.arguments, arguments):
        raise DataError(
            f"{directory}: holds the unfinished preparation of other data: {different}. Choose another "
            "directory with --out, repeat the earlier command to continue it, or delete the directory."
        )
    return progress


def differences(found: Mapping[str, Any], asked: Mapping[str, Any], *, other: str = "asked for") -> str:
    """Where two nested mappings differ, for an error message; empty if they are equal. `other` names `asked`."""
    told = []
    for key in [*found, *(key for key in asked if key not in found)]:
        there, here = found.get(key), asked.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            told += [f"{key}.{inner}" for inner in [differences(there, here, other=other)] if inner]
        elif there != here:
            told.append(f"{key} is {json.dumps(there)[:80]}, {other} {json.dumps(here)[:80]}")
    return "; ".join(told)


def _state(found: dict[str, Any]) -> SplitState:
    return SplitState(**found | {"files": tuple(ShardFile(**file) for file in found["files"])})
