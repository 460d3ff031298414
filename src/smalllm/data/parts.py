"""Parts of a data directory, each written by a task on whatever machine, and how they become one.

Task i of n writes `parts/0000i/`, itself a data directory whose manifest is written last: what has one is complete. Its
`source` says `task` and `tasks`. A merge renames the shards in the order of the tasks and reads each only to check it.
Which text a task gets, and the tokenizer, are known elsewhere (`api/cluster.py`).
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from smalllm.data.durable import sync_directory
from smalllm.data.manifest import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    SPLITS,
    Manifest,
    ShardFile,
    Split,
    read_manifest,
    write_manifest,
)
from smalllm.data.progress import differences
from smalllm.data.shards import verify_files
from smalllm.data.summary import Tally, read_summary, write_summary
from smalllm.data.writer import shard_paths
from smalllm.errors import DataError

PARTS_NAME = "parts"


class Part(NamedTuple):
    """A finished part and what its manifest says."""

    path: Path
    manifest: Manifest


class _Move(NamedTuple):
    """A shard of a part and what it becomes."""

    part: Path
    file: ShardFile
    final: ShardFile


def part_path(out: Path, task: int) -> Path:
    """Where a task writes."""
    return out / PARTS_NAME / f"{task:05d}"


def check_unmerged(out: Path) -> None:
    """Make sure that `out` holds nothing but parts, so that a task may write one.

    Raises:
        DataError: it holds prepared data, finished or not, or the merge of its parts has begun.
    """
    found = [out / name for name in (MANIFEST_NAME, PROGRESS_NAME) if (out / name).exists()] or shard_paths(out)
    if found:
        raise DataError(
            f"{out}: holds {found[0].name}, so data was prepared here or a merge of parts has begun; expected nothing "
            "but parts. Choose another directory, finish the merge, or delete this one."
        )


def check_no_parts(out: Path) -> None:
    """Make sure that `out` holds no parts that are still to be merged.

    Raises:
        DataError: it does; how to merge them.
    """
    if (out / PARTS_NAME).exists() and not (out / MANIFEST_NAME).exists():
        raise DataError(
            f"{out}: holds {PARTS_NAME}/, which are not merged. When all are there:\n"
            f"  smalllm prepare RECIPE --merge --out {shlex.quote(str(out))}"
        )


def read_parts(out: Path) -> list[Part]:
    """All parts of `out` in the order of their tasks.

    Raises:
        DataError: there are none, some are missing or unfinished, or they were not made alike; the tasks are named.
    """
    paths = sorted(path for path in (out / PARTS_NAME).glob("*") if (path / MANIFEST_NAME).exists())
    if not paths:
        raise DataError(
            f"{out}: found no finished part in {PARTS_NAME}/; expected one from each task. Run the tasks first, with "
            "this directory as their out."
        )
    parts = [Part(path, read_manifest(path)) for path in paths]
    for part in parts:
        _check_part(out, part, first=parts[0])
    n_tasks = parts[0].manifest.source["tasks"]
    if missing := [task for task in range(n_tasks) if part_path(out, task) not in paths]:
        raise DataError(
            f"{out}: {len(missing)} of {n_tasks} tasks have not finished: {_ranges(missing)}. Run them again with the "
            "same options, and then the merge."
        )
    return parts


def merge_shards(out: Path, parts: Sequence[Part]) -> Manifest:
    """Make `parts` the one data directory `out`; the same call continues after an interruption.

    The caller holds the lock of `out`, and has put the tokenizer there.

    Raises:
        DataError: a shard is missing or was altered, `out` holds other shards, or a split would be empty. Until then
            nothing was moved.
    """
    moves = {split: _moves(parts, split) for split in SPLITS}
    for split, of_split in moves.items():
        if not of_split:
            raise DataError(
                f"{out}: the parts hold no documents for {split}; both splits need some. Delete {out / PARTS_NAME} and "
                "run the tasks again with another val_fraction, or with more text."
            )
    expected = {move.final.name for of_split in moves.values() for move in of_split}
    if foreign := [path.name for path in shard_paths(out) if path.name not in expected]:
        raise DataError(f"{out}: holds {foreign[0]}, which is of none of its parts. Move it away, or delete it.")
    where = [(_verified(out, move, dtype=parts[0].manifest.dtype), move) for s in SPLITS for move in moves[s]]
    for path, move in where:
        path.rename(out / move.final.name)
    sync_directory(out)
    splits = {split: Split(tuple(move.final for move in of_split)) for split, of_split in moves.items()}
    source = {key: value for key, value in parts[0].manifest.source.items() if key != "task"}
    manifest = Manifest(parts[0].manifest.tokenizer, splits, source)
    if (tally := _sum([read_summary(part.path) for part in parts])) is not None:
        write_summary(out, tally)
    write_manifest(out, manifest)  # the last: what has a manifest is complete
    remove_parts(out)
    return manifest


def remove_parts(out: Path) -> None:
    """Delete what a finished merge has left."""
    if (out / PARTS_NAME).exists():
        shutil.rmtree(out / PARTS_NAME)


def _check_part(out: Path, part: Part, *, first: Part) -> None:
    task, n_tasks = (part.manifest.source.get(key, -1) for key in ("task", "tasks"))
    is_numbered = isinstance(task, int) and isinstance(n_tasks, int) and task < n_tasks
    if not is_numbered or part.path != part_path(out, task):
        raise DataError(
            f"{part.path}: its manifest says that it is part {task} of {n_tasks}; expected what its name says. It was "
            "moved or edited: delete it, and run its task again."
        )
    if different := differences(_facts(part.manifest), _facts(first.manifest), other=f"in {first.path.name}"):
        raise DataError(
            f"{part.path}: was not made like {first.path.name}: {different}. All tasks need the same options and the "
            "same tokenizer. Delete the parts that are wrong, and run their tasks again."
        )


def _facts(manifest: Manifest) -> dict[str, Any]:
    source = {key: value for key, value in manifest.source.items() if key != "task"}
    return {"tokenizer": asdict(manifest.tokenizer), "source": source}


def _moves(parts: Sequence[Part], split: str) -> list[_Move]:
    all_files = [(part.path, file) for part in parts for file in part.manifest.splits[split].files]
    return [
        _Move(path, file, replace(file, name=f"{split}-{number:05d}.bin"))
        for number, (path, file) in enumerate(all_files)
    ]


def _verified(out: Path, move: _Move, *, dtype: str) -> Path:
    """Where the shard is, here or already there; it was read and is whole."""
    source, target = move.part / move.file.name, out / move.final.name
    if source.exists() and target.exists():
        raise DataError(f"{target}: is there already, beside {source}. Move it away, or delete it.")
    directory, file = (out, move.final) if target.exists() else (move.part, move.file)
    verify_files(directory, [file], dtype=dtype)
    return directory / file.name


def _sum(tallies: Sequence[Tally | None]) -> Tally | None:
    total = Tally()
    for tally in tallies:
        if tally is None:
            return None
        total = Tally(
            documents=total.documents + tally.documents,
            tokens=total.tokens + tally.tokens,
            text_bytes=total.text_bytes + tally.text_bytes,
            duplicates=total.duplicates + tally.duplicates,
            partial_tokens=total.partial_tokens + tally.partial_tokens,
            longest=max(total.longest, tally.longest, key=lambda document: document.tokens),
        )
    return total


def _ranges(numbers: Sequence[int]) -> str:
    """3, 5-9 for 3 5 6 7 8 9; no more than ten of them."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    told = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(told[:10] + ["…"] * (len(told) > 10))
