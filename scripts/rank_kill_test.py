#!/usr/bin/env python3
"""Kill ranks of a run on several processes, and show that it ends bit for bit like one left alone.

Two runs of the same small model (FP32, CPU, one thread a process, dropout) with `torchrun`: one undisturbed, one whose
processes are killed with `kill -9` at random moments, a random rank each time. Nobody helps: torchrun sees the loss,
ends the other ranks and starts all again (`--max-restarts`), and they go on from the last checkpoint (`--resume`). Then
are compared, at every step, loss, loss_ema, lr and grad_norm; all measures of every validation row; and the bytes of
the final weights and optimizer state. No step may be missing or stand twice.

Ends only the processes it starts. Prints one line; exits with 1 if anything differs.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kill_test import LIMIT_S, RECIPE, STREAM, WORDS, differences, finish, n_rows


def main() -> int:
    """Run both, compare, and say how it went."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="smalllm-rank-kill-") as name:
        folder = Path(name)
        draw = random.Random(options.seed)
        text = " ".join(draw.choice(WORDS) for _ in range(20_000))
        (folder / "text.txt").write_text(text.replace(" the ", ".\nThe "), encoding="utf-8")
        recipe = RECIPE.format(steps=options.steps, stream=STREAM if options.stream else "")
        (folder / "kill.toml").write_text(recipe.replace("micro_batch_size = 8", "micro_batch_size = 4"))
        finish(folder, "prepare", "kill.toml")
        end(launch(folder, options, "whole"), folder)
        n_kills = kill_ranks(folder, options, draw)
        wrong = differences(folder / "whole", folder / "killed", steps=options.steps)
    killed = f"{n_kills} kills of one of {options.ranks} ranks ({options.parallel}) over {options.steps} steps"
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
    parser.add_argument("--kills", type=int, default=3, help="how many times to kill (default 3)")
    parser.add_argument("--steps", type=int, default=200, help="updates of the run (default 200)")
    parser.add_argument("--ranks", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--seed", type=int, default=0, help="decides text and moments; the clock has its part too")
    parser.add_argument("--stream", action="store_true", help="train on a stream, each line a document")
    options = parser.parse_args()
    if options.kills < 0 or options.steps < 20 or options.ranks < 2:
        parser.error("must be at least: --kills 0, --steps 20, --ranks 2")
    return options


def launch(folder: Path, options: argparse.Namespace, out: str) -> "subprocess.Popen[bytes]":
    """Start torchrun."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}"]
    words += [f"--max-restarts={options.kills}", "-m", "smalllm", "train", "kill.toml", "--out", out, "--resume"]
    words += ["--train.parallel", options.parallel]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)


def end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait for the end; it must be a good one."""
    try:
        code = process.wait(timeout=LIMIT_S)
    finally:
        process.terminate()
    if code != 0:
        said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
        raise SystemExit(f"{said}\ntorchrun exited with {code}")


def kill_ranks(folder: Path, options: argparse.Namespace, draw: random.Random) -> int:
    """Start the second run, kill a rank of it again and again, and wait for its end; how many were killed."""
    process = launch(folder, options, "killed")
    n_kills, began_at = 0, time.monotonic()
    moments = sorted(draw.sample(range(5, options.steps * 9 // 10), options.kills))
    met: set[int] = set()
    for moment in moments:
        pids: dict[int, int] = {}
        while process.poll() is None:
            pids = ranks_of(process.pid)
            is_new = len(pids) == options.ranks and not met & set(pids.values())
            if is_new and n_rows(folder) >= moment:
                break
            if time.monotonic() - began_at > LIMIT_S:
                raise SystemExit(f"nothing happened for {LIMIT_S:.0f} s; the run hangs")
            time.sleep(0.001)
        if process.poll() is not None:
            break
        time.sleep(draw.uniform(0.0, 0.02))
        met |= set(pids.values())
        victim = draw.choice(sorted(pids))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[victim], signal.SIGKILL)
            n_kills += 1
    end(process, folder)
    return n_kills


def ranks_of(parent: int) -> dict[int, int]:
    """Rank -> process, of the processes that a torchrun of ours has started."""
    found = {}
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
            found.update({rank: int(child) for rank in ranks})
    except (OSError, ValueError):  # one of them has just ended
        return {}
    return found


if __name__ == "__main__":
    sys.exit(main())
