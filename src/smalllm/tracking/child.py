"""The process of one tracker: reads what the run writes, as it is written, and logs it.

`python -m smalllm.tracking.child MODULE:CLASS NAME PROJECT RUN_NAME RUN_DIR PATIENCE_S`, started by `followers`. The
run's files are the queue: a row that is not logged yet waits in `metrics.jsonl`, a tracker that is slow reads later,
and one that is asked for at a resume reads from the start. Standard input says when the run is over: it ends, also
when the run's process is killed. Standard output carries notices, a line each.
"""

import importlib
import json
import os
import secrets
import sys
import threading
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from fcntl import LOCK_EX, lockf
from pathlib import Path
from typing import Any

from smalllm.protocols import TrackedRun, Tracker
from smalllm.rundir import RunDir, read_json, write_json
from smalllm.tracking.names import FAILED

_POLL_S = 0.5
_CHUNK_BYTES = 1 << 20  # read at once from a file, so that memory stays small however long the run is
_GRACE_S = 5.0
_NICENESS = 10  # training comes first


class Tail:
    """The lines of a JSON-lines file, as they are written; it need not be there yet.

    Where a shorter file takes its place, as when a run goes back to a checkpoint, it is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._file = path, 0, (0, 0)

    def read(self) -> list[dict[str, Any]]:
        """The rows that are complete and were not read before, about a megabyte of them at most."""
        try:
            with open(self._path, "rb") as file:
                facts = os.fstat(file.fileno())
                if self._file != (facts.st_dev, facts.st_ino) or facts.st_size < self._at:
                    self._at, self._file = 0, (facts.st_dev, facts.st_ino)
                file.seek(self._at)
                text = file.read(_CHUNK_BYTES)
                if b"\n" not in text:
                    text += file.readline()  # a very long line
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        return [row for line in whole.splitlines() if (row := _row(line))]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


class Ledger:
    """Which run of the tracker this is, and the last step of each kind that it has; a small file."""

    def __init__(self, path: Path, *, project: str, name: str) -> None:
        self._path = path
        kept = read_json(path)
        same = "id" in kept and (kept.get("project"), kept.get("name")) == (
            project,
            name,
        )  # else it is another run to the tracker
        self.is_continued = same and bool(kept.get("logged"))
        self.id = str(kept["id"]) if same else secrets.token_hex(4)
        self.logged: dict[str, int] = dict(kept.get("logged", {})) if same else {}
        self._facts = {"project": project, "name": name, "id": self.id}

    def has(self, kind: str, step: int) -> bool:
        """Whether a row of this kind and step was logged in an earlier sitting, or is older than one that was."""
        return step <= self.logged.get(kind, -1)

    def keep(self, kind: str, step: int) -> None:
        """Remember that it was logged."""
        self.logged[kind] = max(step, self.logged.get(kind, -1))
        write_json(self._path, {**self._facts, "logged": self.logged})


def entries(run: RunDir) -> Iterator[tuple[str, int, dict[str, float | str]] | None]:
    """Kind, step and named values of all that the run writes, in its order; None where nothing new is there yet."""
    metrics, samples, prompts = Tail(run.metrics), Tail(run.samples), _prompts(run)
    while True:
        rows = [(_kind(row), row) for row in metrics.read()] + [("sample", row) for row in samples.read()]
        for kind, row in sorted(rows, key=lambda pair: pair[1]["step"]):
            if kind == "sample":
                prompt = str(row.get("prompt", ""))
                number = prompts.index(prompt) if prompt in prompts else len(prompts)
                yield f"sample/{number}", row["step"], {f"sample/{number}": prompt + str(row.get("text", ""))}
            else:
                values = flat({key: value for key, value in row.items() if key != "step"}, prefix=f"{kind}/")
                yield kind, row["step"], values
        if not rows:
            yield None


def _kind(row: Mapping[str, Any]) -> str:
    """What a row of metrics is of; those of several tasks have the same step and names, so each is a kind."""
    return f"task/{row.get('task')}" if row.get("split") == "task" else str(row.get("split"))


def flat(table: Mapping[str, Any], *, prefix: str) -> dict[str, float | str]:
    """The numbers of nested dictionaries under joined names: `val/loss`."""
    found: dict[str, float | str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, prefix=f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = value
    return found


def follow(tracker: Tracker, tracked: TrackedRun, run: RunDir, ledger: Ledger, ended: threading.Event) -> None:
    """Log until the run is over and all it wrote is logged. The tracker is opened with the first row it lacks."""
    is_open, is_over = False, False

    def log(kind: str, step: int, values: Mapping[str, float | str]) -> None:
        nonlocal is_open
        if not is_open:
            tracker.begin(tracked)
            is_open = True
        tracker.log(step, values)
        ledger.keep(kind, step)

    for entry in entries(run):
        if entry is None:
            if is_over:  # it was over before the files were read to their ends
                break
            is_over = ended.is_set() or ended.wait(_POLL_S)
        elif not ledger.has(entry[0], entry[1]):
            log(*entry)
    result = read_json(run.result)
    step = result.get("steps")
    if isinstance(step, int) and not ledger.has("result", step):
        log("result", step, flat(result, prefix="result/"))
    if is_open:
        tracker.end()


def _prompts(run: RunDir) -> list[str]:
    return list(_config(run).get("eval", {}).get("sample_prompts", []))


def _config(run: RunDir) -> dict[str, Any]:
    return tomllib.loads(run.config.read_text(encoding="utf-8"))


def _flat_config(run: RunDir) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for section, table in _config(run).items():
        for key, value in table.items() if isinstance(table, dict) else [("", table)]:
            name = f"{section}.{key}" if key else section
            found[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return found


def _watch(ended: threading.Event, patience_s: float) -> None:
    """Say when the run is over, and end this process where the tracker does not."""
    while sys.stdin.buffer.read(4096):
        pass
    ended.set()
    time.sleep(patience_s + _GRACE_S)  # the run stops this process before, if it is still there to do so
    os._exit(1)


def _silenced(log: Path) -> Callable[[str], None]:
    """Send all that the tracker prints to a file; what is returned speaks to the run."""
    speaker = os.fdopen(os.dup(1), "w", encoding="utf-8")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)

    def say(text: str) -> None:
        try:
            print(" ".join(text.split()), file=speaker, flush=True)
        except OSError:  # the run has gone
            return

    return say


def main(arguments: list[str]) -> int:
    """Follow one run with one tracker; the exit code is 0 when all was logged."""
    where, name, project, run_name, path, patience_s = arguments
    run = RunDir(Path(path))
    folder = run.tracking / name
    folder.mkdir(parents=True, exist_ok=True)
    say = _silenced(folder / "log.txt")
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended, float(patience_s)), daemon=True).start()
    os.nice(_NICENESS)
    try:
        with open(folder / ".lock", "w") as lock:
            lockf(lock, LOCK_EX)  # the process of a sitting that was just killed may still be ending
            ledger = Ledger(folder / "position.json", project=project, name=run_name)
            tracked = TrackedRun(
                project=project,
                name=run_name,
                id=ledger.id,
                is_continued=ledger.is_continued,
                folder=folder,
                config=_flat_config(run),
                notice=say,
            )
            module, _, kind = where.partition(":")
            follow(getattr(importlib.import_module(module), kind)(), tracked, run, ledger, ended)
    except Exception as error:  # whatever a tracker raises, the run goes on without it
        traceback.print_exc()
        say(f"{FAILED}{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
