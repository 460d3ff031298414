"""The tasks, a file each: how a record becomes something to score, and what is counted.

A new one: write `tasks/NAME.py` with a `TASK`, put it into `TASKS` and its name into `config.TASK_NAMES`, describe it
in docs/metrics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.errors import DataError
from smalllm.evaluation.questions import Task
from smalllm.evaluation.records import Notice, find_files, read_records
from smalllm.evaluation.tasks import arc_easy, blimp, hellaswag, lambada, piqa, wikitext

TASKS: dict[str, Task[Any]] = {
    task.name: task
    for task in (
        hellaswag.TASK, hellaswag.RAW_TASK, lambada.TASK, blimp.TASK, arc_easy.TASK, piqa.TASK, wikitext.TASK
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task and its items, read."""

    task: Task[Any]
    items: Sequence[Any]


def open_task(name: str, *, given: str | None, cache: Path, notice: Notice, n_examples: int = 0) -> OpenTask:
    """Read the items of a task, fetching them first where they are not here.

    Args:
        name: one of `TASKS`.
        given: a file, folder, URL or data set of the Hub; None: the task's own.
        cache: the folder for what comes by URL.
        notice: told of downloads.
        n_examples: how many to keep, spread evenly over all; 0: all.

    Raises:
        DataError: no data, or a record that cannot be used; and where.
    """
    task = TASKS[name]
    files = find_files(name, given=given, address=task.address, patterns=task.files, cache=cache, notice=notice)
    items = [task.read(record, where) for file in files for where, record in read_records(file)]
    if not items:
        raise DataError(f"{name}: {files[0]} holds no record; expected at least one. Give another file")
    return OpenTask(task, spread(items, n_examples))


def spread(items: Sequence[Any], n: int) -> Sequence[Any]:
    """`n` of some items, evenly spread over them, the same ones each time; all of them for 0."""
    if n <= 0 or n >= len(items):
        return items
    return [items[i * len(items) // n] for i in range(n)]
