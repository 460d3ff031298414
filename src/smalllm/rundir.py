"""The run directory: what is where, the metrics file, and the lock that keeps it to one writer.

    config.toml  environment.json  tokenizer/  metrics.jsonl  samples.jsonl
    checkpoints/{step-00001000/, latest, best}  plots/*.png  report.html  result.json  tracking/NAME/

`metrics.jsonl` has one JSON object per line. Train rows: step, tokens, elapsed_s, loss, loss_ema [nats/token], lr,
grad_norm, step_time_s, tokens_per_second, mfu [share of peak], peak_memory_bytes. Val rows: step, tokens, elapsed_s,
loss [nats/token], perplexity, bits_per_token, bits_per_byte, accuracy [share]. Task rows: step, tokens, elapsed_s,
task, and its measures. A train row at step s holds the loss of the batch, and the rate, that made update s-1 -> s; a
val row or a task row at s describes the model after s updates.
"""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.errors import RunError


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names the files of one run; creates nothing."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def result(self) -> Path:
        return self.path / "result.json"


def is_launched() -> bool:
    """Whether torchrun started this process together with others."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def is_other_rank() -> bool:
    """Whether it is one of those that neither write the run nor speak: every rank but 0."""
    return is_launched() and os.environ["RANK"] != "0"


@contextlib.contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Hold the run directory for writing; the lock goes with the process, however it ends.

    Raises:
        RunError: another process is writing this run, or the directory cannot be made, written or locked.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = open(run.path / ".lock", "w")  # noqa: SIM115 - closed below; opened here for its own error message
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be used as a run directory ({error.strerror}); choose another --out"
        ) from error
    with lock as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise RunError(
                f"{run.path}: another process is writing this run; wait for it, stop it, or choose another --out"
            ) from error
        except OSError as error:
            raise RunError(
                f"{run.path}: this file system cannot lock a file ({error.strerror}), so nothing would keep a second "
                "process out; choose an --out on another"
            ) from error
        yield


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line torn by a crash is dropped, a missing file has no rows.

    Raises:
        RunError: a line other than the last is not a JSON object; the message names file and line.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):  # a last line without a newline is a write that was cut short
            raise RunError(f"{path}:{number}: not a JSON object; remove or mend that line")
    return rows


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row. Numbers that JSON cannot hold (inf, nan) become null."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(_plain(row)) + "\n")


def rewind_jsonl(path: Path, *, step: int) -> None:
    """Drop the rows after `step`, so that a resumed run writes each step once. Atomic."""
    if path.exists():
        kept = [row for row in read_jsonl(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, indented."""
    write_text(path, json.dumps(_plain(value), indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; missing or damaged is an empty one.

    For files that describe a run and can be made again; what a run depends on is checked where it is read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
