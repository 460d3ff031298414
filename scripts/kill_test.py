#!/usr/bin/env python3
"""Kill a training run with `kill -9` again and again, and show that it ends bit for bit like one left alone.

Two runs of the same small model (FP32, CPU, one thread, dropout) on a text made here: one undisturbed, one killed at
random moments and continued with `smalllm train … --resume`. Moments are of three kinds, in turn: any time in a step,
while a checkpoint is being written, and any time in the first seconds of a process. Then are compared, at every step,
loss, loss_ema, lr and grad_norm; all measures of every validation row; and the bytes of the final weights and
optimizer state. No step may be missing or stand twice.

With --stream the text is encoded while the model trains. Ends only the processes it starts. Prints one line; exits
with 1 if anything differs.
"""

import argparse
import hashlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = """
[model]
n_layers = 2
n_heads = 2
d_model = 32
context_length = 32
dropout = 0.2

[data]
path = "data"
files = ["text.txt"]
val_fraction = 0.1
{stream}

[tokenizer]
kind = "bytes"

[optim]
lr = 2e-3
warmup_steps = 10

[train]
max_steps = {steps}
tokens_per_step = 512
micro_batch_size = 8
precision = "fp32"
compile = false
device = "cpu"
threads = 1
save_every = 7
log_every = 1

[eval]
every = 20
tokens = 1024
final_tokens = 1024
sample_prompts = []
"""
STREAM = """
mode = "stream"
separator = "\\n"
shuffle_buffer = 50
"""
WORDS = ("the", "old", "red", "hen", "dog", "saw", "met", "fed", "a", "cat", "and", "ran", "home", "to", "bed")
NUMBERS = ("loss", "loss_ema", "lr", "grad_norm")
MEASURES = ("loss", "perplexity", "bits_per_token", "bits_per_byte", "accuracy")
STARTUP_S = 4.0  # importing, reading and checking takes about so long
LIMIT_S = 300.0  # a process that takes longer hangs


def main() -> int:
    """Run both, compare, and say how it went."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="smalllm-kill-") as name:
        folder = Path(name)
        draw = random.Random(options.seed)
        text = " ".join(draw.choice(WORDS) for _ in range(20_000))
        (folder / "text.txt").write_text(text.replace(" the ", ".\nThe "), encoding="utf-8")
        recipe = RECIPE.format(steps=options.steps, stream=STREAM if options.stream else "")
        (folder / "kill.toml").write_text(recipe, encoding="utf-8")
        finish(folder, "prepare", "kill.toml")
        finish(folder, "train", "kill.toml", "--out", "whole")
        n_kills = n_in_saves = 0
        kinds = itertools.cycle(("step", "save", "start"))
        moments = sorted(draw.randrange(1, max(2, options.steps * 9 // 10)) for _ in range(options.kills))
        for number, (step, kind) in enumerate(zip(moments, kinds, strict=False), start=1):
            was_alive, in_save = kill(folder, step, kind, draw)
            n_kills, n_in_saves = n_kills + was_alive, n_in_saves + in_save
            if options.verbose:
                print(f"kill {number} ({kind}): {n_rows(folder)} rows written", file=sys.stderr, flush=True)
        finish(folder, "train", "kill.toml", "--out", "killed", "--resume")
        wrong = differences(folder / "whole", folder / "killed", steps=options.steps)
    killed = f"{n_kills} kills, {n_in_saves} of them in a save, over {options.steps} steps"
    if n_kills < options.kills:
        wrong.append(f"only {n_kills} of {options.kills} kills met a running process; use more --steps")
    if wrong:
        print(f"FAILED after {killed}: " + "; ".join(wrong[:10]))
        return 1
    print(f"identical after {killed}: losses, rates, gradient norms, weights and optimizer state, bit for bit")
    return 0


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--kills", type=int, default=20, help="how many times to kill (default 20)")
    parser.add_argument("--steps", type=int, default=400, help="updates of the run (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="decides text and moments; the clock has its part too")
    parser.add_argument("--stream", action="store_true", help="train on a stream, each line a document")
    parser.add_argument("--verbose", action="store_true", help="tell about each kill")
    options = parser.parse_args()
    if options.kills < 0 or options.steps < 20:
        parser.error(f"--kills {options.kills} --steps {options.steps}: must be at least 0 and 20")
    return options


def start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    """A smalllm process of ours."""
    log = (folder / "log.txt").open("ab")
    with log:
        return subprocess.Popen([sys.executable, "-m", "smalllm", *words], cwd=folder, stdout=log, stderr=log)


def finish(folder: Path, *words: str) -> None:
    """Run smalllm to its end; it must succeed."""
    process = start(folder, *words)
    try:
        code = process.wait(timeout=LIMIT_S)
    finally:
        process.kill()
    if code != 0:
        said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"{said}\nsmalllm {' '.join(words)} exited with {code}")


def kill(folder: Path, step: int, kind: str, draw: random.Random) -> tuple[bool, bool]:
    """Continue the run and kill it.

    Args:
        folder: of the runs.
        step: not before so many rows are written (a process killed in its first seconds may not come so far).
        kind: "step", "save" or "start".
        draw: decides the moment.

    Returns:
        Whether the process was still running, and whether its end left a half-written checkpoint.
    """
    checkpoints = folder / "killed" / "checkpoints"
    left_before, metrics_before = set(checkpoints.glob(".writing-*")), inode(folder)
    process = start(folder, "train", "kill.toml", "--out", "killed", "--resume")
    began_at = time.monotonic()
    try:
        if kind == "start":
            time.sleep(draw.uniform(0.0, STARTUP_S))
        else:
            # A resumed run rewrites its metrics before it adds to them: the rows counted are this process's.
            wait_for(lambda: inode(folder) != metrics_before and n_rows(folder) > step, process, began_at)
            if kind == "save":
                wait_for(lambda: bool(set(checkpoints.glob(".writing-*")) - left_before), process, began_at)
                time.sleep(draw.uniform(0.0, 0.004))
            else:
                time.sleep(draw.uniform(0.0, 0.05))
    finally:
        was_alive = process.poll() is None
        process.kill()
        process.wait()
    return was_alive, bool(set(checkpoints.glob(".writing-*")) - left_before)


def wait_for(happened: Any, process: "subprocess.Popen[bytes]", began_at: float) -> None:
    """Poll until it happens or the process ends."""
    while not happened() and process.poll() is None:
        if time.monotonic() - began_at > LIMIT_S:
            raise SystemExit(f"nothing happened for {LIMIT_S:.0f} s; the run hangs")
        time.sleep(0.0005)


def inode(folder: Path) -> int | None:
    """Which file the killed run's metrics are; None while there is none."""
    path = folder / "killed" / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def n_rows(folder: Path) -> int:
    """Lines of the killed run's metrics so far."""
    path = folder / "killed" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def differences(whole: Path, killed: Path, *, steps: int) -> list[str]:
    """Everything in which the two runs differ, in words."""
    wrong = []
    ours, theirs = rows(whole), rows(killed)
    for name, table in (("the undisturbed run", ours), ("the killed run", theirs)):
        found = [row["step"] for row in table if row["split"] == "train"]
        if found != list(range(1, steps + 1)):
            wrong.append(f"{name} has steps missing or twice")
    if [(r["split"], r["step"]) for r in ours] != [(r["split"], r["step"]) for r in theirs]:
        return [*wrong, "the rows are not those of the same steps"]
    for one, other in zip(ours, theirs, strict=True):
        for key in NUMBERS if one["split"] == "train" else MEASURES:
            if one[key] != other[key]:
                wrong.append(f"{one['split']} {key} at step {one['step']}: {one[key]!r} and {other[key]!r}")
    for file in ("model.safetensors", "optimizer.safetensors"):
        if sha256(latest(whole) / file) != sha256(latest(killed) / file):
            wrong.append(f"{file} differs")
    return wrong


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def latest(run: Path) -> Path:
    """Its newest checkpoint."""
    return run / "checkpoints" / (run / "checkpoints" / "latest").read_text(encoding="utf-8").strip()


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
