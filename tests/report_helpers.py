"""Runs to report on, and a browser to look at their pages."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from smalllm.config import ModelConfig, OptimConfig, RunConfig, TokenizerConfig
from smalllm.recipes import save_config
from smalllm.rundir import RunDir, append_jsonl, write_json

ATTACK = '</script><!--<script>alert("x")</script><img src=x onerror=alert(1)>'
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


def train_row(step: int, **changes: object) -> dict[str, object]:
    row = {
        "split": "train",
        "step": step,
        "tokens": step * 1024,
        "elapsed_s": step * 0.5,
        "loss": 2 + 5 * math.exp(-step / 20),
        "loss_ema": 2 + 5 * math.exp(-step / 30),
        "lr": 3e-4,
        "grad_norm": 0.5,
        "tokens_per_second": 2048.0,
    }
    return row | changes


def val_row(step: int, **changes: object) -> dict[str, object]:
    loss = 2 + 5 * math.exp(-step / 20)
    row = {"split": "val", "step": step, "tokens": step * 1024, "elapsed_s": step * 0.5, "loss": loss}
    row |= {
        "perplexity": math.exp(loss),
        "bits_per_token": loss / math.log(2),
        "bits_per_byte": loss / 3,
        "accuracy": 0.5,
    }
    return row | changes


def task_row(step: int, task: str, **measures: float) -> dict[str, object]:
    return {"split": "task", "step": step, "tokens": step * 1024, "elapsed_s": step * 0.5, "task": task} | measures


def write_run(path: Path, rows: list[dict[str, object]]) -> RunDir:
    path.mkdir()
    run = RunDir(path)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_full_run(path: Path, name: str = "full") -> RunDir:
    """A finished stories run with all a run can hold, and samples that try to break out of the page."""
    rows = [train_row(s) for s in range(1, 101)] + [val_row(s) for s in (50, 100)]
    rows += [task_row(s, "hellaswag", acc=0.25 + s / 1000) for s in (50, 100)]
    rows.append({"split": "event", "step": 60, "tokens": 61_440, "event": f"update refused: {ATTACK}"})
    run = write_run(path / name, rows)
    shape = ModelConfig(n_layers=2, n_heads=2, d_model=64, context_length=64)
    tokenizer = TokenizerConfig(kind="bytes", vocab_size=257)
    config = RunConfig(recipe="stories", model=shape, tokenizer=tokenizer, optim=OptimConfig(lr=0.00123))
    save_config(config, run.config)
    write_json(
        run.environment,
        {"device": "cpu", "cpu": "A & B <chip>", "peak_flops": 1.24e12, "versions": {"torch": "2.13"}},
    )
    write_json(
        run.result,
        {
            "recipe": "stories",
            "parameters": 2_400_000,
            "steps": 100,
            "tokens": 102_400,
            "train_time_s": 725.0,
            "tokens_per_second": 45_230.0,
            "mfu": 0.31,
            "peak_memory_bytes": 1.331e9,
            "device": "cpu",
            "val": {
                "loss": 2.05,
                "perplexity": 7.77,
                "bits_per_token": 2.96,
                "bits_per_byte": 0.6834,
                "accuracy": 0.51,
            },
            "unigram": {"loss": 5.1, "bits_per_byte": 2.1},
            "floor": {"loss": 1.9, "bits_per_byte": 0.65, "ratio": 1.05},
            "generated": {"valid_share": 0.874, "n": 200},
            "tasks": {"hellaswag": {"n": 200, "acc": 0.285, "acc_stderr": 0.032}},
        },
    )
    for step in (50, 100):
        append_jsonl(run.samples, {"step": step, "prompt": ATTACK, "text": f"{ATTACK} once & for all"})
    return run


def outside_references(page: str) -> list[str]:
    """What a browser would fetch: src and href that are not part of the page, url() outside it, imports."""
    found = re.findall(r"""\b(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)|url\(["']?([^"')]+)|(@import)""", page)
    return [link for links in found for link in links if link and not link.startswith(("#", "data:"))]


HEADLESS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-dev-shm-usage",
)  # Chromium without a screen, that asks nobody on the net


def browse(page: Path | str, profile: Path) -> tuple[str, str]:
    """The page's elements after loading in headless Chromium, and what the console said."""
    assert CHROMIUM is not None
    options = [
        *HEADLESS,
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--window-size=390,2000",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    address = page if isinstance(page, str) else page.as_uri()
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to open pages in a browser")
