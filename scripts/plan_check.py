#!/usr/bin/env python3
"""Plan some runs, make them, and show how near the plans were: memory at the peak, and time of an update.

Each shape is planned (`smalllm plan --json`, which times a few updates) and trained for a few updates right after it,
each in a process of its own, on a text made here; both `--rounds` times in turn. Memory is the peak of a run's process
up to its last update; time the median of its updates but the first. Of each the median over the rounds is shown, with
the range of the ratios of time: other programs on the machine spoil the time, not the memory. Prints a Markdown table;
exits with 1 where memory is off by more than `--within`.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SYLLABLES = (
    "ba",
    "co",
    "du",
    "fe",
    "gi",
    "ha",
    "jo",
    "ku",
    "le",
    "mi",
    "na",
    "po",
    "qui",
    "ra",
    "su",
    "te",
    "vo",
    "wa",
)
COMMON = {
    "model.dropout": 0.0, "train.max_steps": 6, "train.log_every": 1, "train.save_every": 0, "eval.every": 0,
    "eval.final_tokens": 4096, "train.compile": False,
}  # fmt: skip
NARROW = {"model.n_layers": 6, "model.n_heads": 4, "model.d_model": 256, "model.context_length": 256}
WIDE = {"model.n_layers": 4, "model.n_heads": 8, "model.d_model": 512, "model.context_length": 256}
LONG = {"model.n_layers": 8, "model.n_heads": 6, "model.d_model": 384, "model.context_length": 512}
MODERN = {"model.norm": "rmsnorm", "model.mlp": "swiglu", "model.qk_norm": True, "model.tie_embeddings": False}
SMALL, LARGE = 257, 16_000  # token ids
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "6 x 256, context 256, FP32": (
        SMALL, {**NARROW, "train.precision": "fp32", "train.micro_batch_size": 16, "train.tokens_per_step": 8192}
    ),
    "8 x 384, context 512": (LARGE, {**LONG, "train.micro_batch_size": 8, "train.tokens_per_step": 4096}),
    "the same, micro-batch 2, two of them": (
        LARGE, {**LONG, "train.micro_batch_size": 2, "train.tokens_per_step": 2048}
    ),
    "the same, micro-batch 8, compiled": (
        LARGE, {**LONG, "train.micro_batch_size": 8, "train.tokens_per_step": 4096, "train.compile": True}
    ),
    "the same, every block computed again": (
        LARGE,
        {**LONG, "train.micro_batch_size": 8, "train.tokens_per_step": 4096, "train.activation_checkpointing": 1},
    ),
    "the same, and the logits in 16 parts": (
        LARGE,
        {
            **LONG, "train.micro_batch_size": 8, "train.tokens_per_step": 4096, "train.activation_checkpointing": 1,
            "train.loss_chunks": 16,
        },
    ),
    "4 x 512, modern form, Muon": (
        LARGE,
        {**WIDE, **MODERN, "optim.kind": "muon", "train.micro_batch_size": 8, "train.tokens_per_step": 2048},
    ),
    "the same, compiled": (
        LARGE,
        {
            **WIDE, **MODERN, "optim.kind": "muon", "train.micro_batch_size": 8, "train.tokens_per_step": 2048,
            "train.compile": True,
        },
    ),
    "8 x 384, context 512, dropout 0.1, compiled": (
        LARGE,
        {
            **LONG, "model.dropout": 0.1, "train.micro_batch_size": 8, "train.tokens_per_step": 4096,
            "train.compile": True,
        },
    ),
    "6 x 256, context 256, dropout 0.1": (
        SMALL, {**NARROW, "model.dropout": 0.1, "train.micro_batch_size": 16, "train.tokens_per_step": 4096}
    ),
}  # fmt: skip


def main() -> int:
    """Plan and train each shape."""
    options = read_options()
    chosen = [name for name in SHAPES if not options.only or any(word in name for word in options.only)]
    rows, off = [], []
    with tempfile.TemporaryDirectory(prefix="smalllm-plan-") as made:
        folder = Path(made)
        make_text(folder)
        for number, name in enumerate(chosen):
            vocab_size, changes = SHAPES[name]
            rounds = []
            for turn in range(options.rounds):
                out = folder / f"run-{number}-{turn}"
                rounds.append(check(out, vocab_size, {**changes, "train.threads": options.threads}))
                print(json.dumps({"shape": name, **rounds[-1]}), file=sys.stderr, flush=True)
            rows.append([name, f"{vocab_size:,}", *described(rounds)])
            if abs(median(rounds, "planned_bytes") / median(rounds, "run_bytes") - 1) > options.within:
                off.append(name)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {versions()}\n")
    print(
        "| shape | ids | memory planned | run | ratio | time planned | run | ratio | of each round |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if off:
        print(f"\nmemory is off by more than {options.within:.0%}: {'; '.join(off)}")
    return int(bool(off))


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--only", nargs="*", default=[], help="words of the shapes' names; absent: all")
    parser.add_argument("--rounds", type=int, default=3, help="of a plan and a run (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--within", type=float, default=0.15, help="what memory may be off by (default 0.15)")
    return parser.parse_args()


def make_text(folder: Path) -> None:
    """Made-up words in made-up sentences: enough for a large vocabulary."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randrange(1, 5))) for _ in range(30_000)]
    lines = (" ".join(draw.choices(words, k=draw.randrange(4, 16))).capitalize() + ".\n" for _ in range(40_000))
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")


def check(out: Path, vocab_size: int, changes: dict[str, Any]) -> dict[str, Any]:
    """What was planned and what came, of one shape."""
    kind = "bytes" if vocab_size == SMALL else "huggingface"
    data = out.parent / f"data-{vocab_size}"
    source: dict[str, Any] = {"data.files": out.parent / "text.txt", "data.path": data, "tokenizer.kind": kind}
    if kind == "huggingface":
        source["tokenizer.vocab_size"] = vocab_size
    if not data.exists():
        smalllm("prepare", "shakespeare", *words(source), "--data.separator", "\n")
    options = words({**source, **COMMON, **changes})
    planned = json.loads(smalllm("plan", "shakespeare", *options, "--json"))
    smalllm("train", "shakespeare", *options, "--out", out, "--json")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    return {
        "planned_bytes": planned["memory"]["total_bytes"],
        "run_bytes": rows[-1]["peak_memory_bytes"],
        "trial_bytes": planned["measured_memory_bytes"],
        "planned_s": planned["step_time_s"],
        "run_s": statistics.median(row["step_time_s"] for row in rows[1:]),
        "times_s": [round(row["step_time_s"], 3) for row in rows],
        "parts": planned["memory"],
    }


def described(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of a row."""
    memory, run = median(rounds, "planned_bytes"), median(rounds, "run_bytes")
    planned_s, run_s = median(rounds, "planned_s"), median(rounds, "run_s")
    ratios = sorted(found["planned_s"] / found["run_s"] for found in rounds)
    return [
        f"{memory / 1e6:,.0f} MB",
        f"{run / 1e6:,.0f} MB",
        f"{memory / run:.2f}",
        f"{planned_s:.2f} s",
        f"{run_s:.2f} s",
        f"{planned_s / run_s:.2f}",
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
    ]


def median(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """Over the rounds."""
    return float(statistics.median(found[key] for found in rounds))


def words(changes: dict[str, Any]) -> list[str]:
    """Options of the command line."""
    return [
        part
        for name, value in changes.items()
        for part in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]


def smalllm(*arguments: Any) -> str:
    """Run the command; it must succeed."""
    began_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "smalllm", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr[-2000:]}\nsmalllm {arguments[0]} exited with {done.returncode}")
    print(f"{arguments[0]}: {time.monotonic() - began_at:.0f} s", file=sys.stderr, flush=True)
    return done.stdout


def versions() -> str:
    """Of what decides memory."""
    import torch

    return f"PyTorch {torch.__version__}, {' '.join(platform.libc_ver())}"


if __name__ == "__main__":
    sys.exit(main())
