"""What the tests of whole runs share: a text made here, tiny configurations, and ways to look at a run."""

import hashlib
import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smalllm.api import prepare, train
from smalllm.config import RunConfig
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, read_jsonl

WORDS = ("the", "a", "cat", "dog", "hen", "saw", "met", "fed", "old", "red", "and", "then", "ran", "home", "to", "bed")

TINY: dict[str, Any] = {
    "data.val_fraction": 0.1,
    "tokenizer.kind": "bytes",
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.d_model": 32,
    "model.context_length": 16,
    "model.dropout": 0.1,
    "optim.warmup_steps": 3,
    "train.max_steps": 14,
    "train.tokens_per_step": 128,
    "train.micro_batch_size": 4,  # two micro-batches a step
    "train.precision": "fp32",
    "train.compile": False,
    "train.device": "cpu",
    "train.threads": 1,
    "train.log_every": 1,
    "eval.every": 4,
    "eval.tokens": 256,
    "eval.sample_prompts": (),
}
"""A run of a fraction of a second, with dropout and accumulation."""

CLOCKS = {"elapsed_s", "step_time_s", "tokens_per_second", "mfu", "peak_memory_bytes"}
"""What two equal runs may differ in."""


def make_text(n_bytes: int = 20_000, *, seed: int = 0) -> str:
    draw = random.Random(seed)
    text = ""
    while len(text) < n_bytes:
        text += " ".join(draw.choice(WORDS) for _ in range(draw.randrange(3, 12))).capitalize() + ".\n"
    return text


def tiny_config(folder: Path, changes: Mapping[str, Any] | None = None, *, seed: int = 0) -> RunConfig:
    """A tiny run on text in `folder`, its data in `folder/data`; nothing is prepared."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(make_text(seed=seed))
    here = {"data.files": (str(text),), "data.path": str(folder / "data")}
    return override(load_recipe("shakespeare"), {**TINY, **here, **(changes or {})})


def prepared_config(folder: Path, changes: Mapping[str, Any] | None = None, *, seed: int = 0) -> RunConfig:
    """The same, prepared."""
    config = tiny_config(folder, changes, seed=seed)
    prepare(config)
    return config


def options_of(changes: Mapping[str, Any]) -> list[str]:
    """Dotted changes as the command line takes them."""
    words: list[str] = []
    for name, value in changes.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return words


class StopAt(Silent):
    """Sends this process a signal when the row of a step is written, as `kill` would; keeps what was said."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number
        self.said: list[str] = []

    def row(self, row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and row["step"] == self.step:
            os.kill(os.getpid(), self.number)

    def say(self, text: str) -> None:
        self.said.append(text)


def train_until(step: int, config: RunConfig, out: Path, **arguments: Any) -> list[str]:
    """Train to a step before the last, which saves and needs no report; what was said."""
    progress = StopAt(step)
    result = train(config, out=out, progress=progress, **arguments)
    assert result == {"stopped": "SIGTERM", "steps": step, "saved_steps": step, "run": str(out)}
    return progress.said


def exact_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a run without its clocks, and without what happened to it on the way."""
    rows = [row for row in read_jsonl(RunDir(out).metrics) if row["split"] != "event"]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def final_files(out: Path) -> dict[str, str]:
    """sha256 of weights and optimizer state of the latest checkpoint."""
    checkpoints = RunDir(out).checkpoints
    latest = checkpoints / (checkpoints / "latest").read_text().strip()
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: hashlib.sha256((latest / name).read_bytes()).hexdigest() for name in names}


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
