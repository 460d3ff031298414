#!/usr/bin/env python3
"""Kill `smalllm prepare` with `kill -9` again and again, and show that its result is the same byte for byte.

Two preparations of one corpus made here (JSON Lines, text with a separator, Parquet, gzip; with duplicates, which are
dropped): one undisturbed, one killed at random moments and started again. What is killed is in turn the command itself,
one of the processes that encode for it, and the command in its first seconds. After each kill no process may be left;
where an encoding process was killed, the command must end with an error that says so. In the end every file of the two
data directories must be equal, summary included.

The gigatoken extra, where it is installed, is hidden from the command, so that there are processes to kill; with
--gigatoken it encodes, in threads.

Ends only the processes it starts and theirs. Needs /proc. Prints one line; exits with 1 if anything differs.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smalllm.tokenizers.gigatoken import is_installed

STARTUP_S = 1.5  # importing, reading and checking takes about so long
GONE_S = 10.0  # within so long after a kill no process may be left
LIMIT_S = 300.0  # a process that takes longer hangs
WITHOUT_GIGATOKEN = (
    "from smalllm.tokenizers import gigatoken; gigatoken.is_installed = lambda: False; "
    "from smalllm.cli import entry; entry()"
)
SYLLABLES = ["ka", "to", "mi", "re", "shé", "un", "don't", "猫", "19", "S", "ing", "er"]


def main() -> int:
    """Run both, compare, and say how it went."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="smalllm-kill-") as name:
        folder = Path(name)
        command = make_corpus(folder, random.Random(options.seed), megabytes=options.megabytes)
        command = ["-m", "smalllm", *command] if options.gigatoken else ["-c", WITHOUT_GIGATOKEN, *command]
        finish(folder, command, "whole")
        whole = tree(folder / "whole")
        summary = json.loads((folder / "whole" / "summary.json").read_text(encoding="utf-8"))
        draw, n_kills, wrong = random.Random(options.seed), {"command": 0, "worker": 0, "start": 0}, []
        has_workers = not (options.gigatoken and is_installed())
        kinds = itertools.cycle(kind for kind in n_kills if has_workers or kind != "worker")
        moments = sorted(draw.randrange(summary["documents"] * 9 // 10) for _ in range(options.kills))
        for number, (moment, kind) in enumerate(zip(moments, kinds, strict=False), start=1):
            said = kill(folder, command, moment, kind, draw)
            n_kills[kind] += said is not None
            wrong += [said] if said else []
            if options.verbose:
                print(f"kill {number} ({kind}): {progress(folder):,} pieces done", file=sys.stderr, flush=True)
        finish(folder, command, "killed")
        killed = tree(folder / "killed")
    wrong += [f"{file} differs" for file in sorted(whole | killed) if whole.get(file) != killed.get(file)]
    total = sum(n_kills.values())
    told = f"{total} kills ({n_kills['command']} of the command, {n_kills['worker']} of an encoding process, "
    told += f"{n_kills['start']} while starting), {len(whole)} files, {summary['duplicates']:,} duplicates dropped"
    if total < options.kills:
        wrong.append(f"only {total} of {options.kills} kills met a running process; use more --megabytes")
    if wrong:
        print(f"FAILED after {told}: " + "; ".join(wrong[:10]))
        return 1
    print(f"identical after {told}: every file byte for byte; no process was left behind")
    return 0


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--kills", type=int, default=20, help="how many times to kill (default 20)")
    parser.add_argument("--gigatoken", action="store_true", help="use it, if it is installed")
    parser.add_argument("--megabytes", type=float, default=60.0, help="size of the corpus (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="decides text and moments; the clock has its part too")
    parser.add_argument("--verbose", action="store_true", help="tell about each kill")
    options = parser.parse_args()
    if options.kills < 0 or options.megabytes < 1:
        parser.error(f"--kills {options.kills} --megabytes {options.megabytes}: must be at least 0 and 1")
    return options


def make_corpus(folder: Path, draw: random.Random, *, megabytes: float) -> list[str]:
    """Write the text; the words of the command that prepares it."""
    import pyarrow
    import pyarrow.parquet

    words = ["".join(draw.choices(SYLLABLES, k=draw.randrange(1, 5))) for _ in range(2000)]
    texts: list[str] = []
    left_bytes = megabytes * 1e6
    while left_bytes > 0:
        again = bool(texts) and draw.random() < 0.1
        text = draw.choice(texts[-500:]) if again else " ".join(draw.choices(words, k=draw.randrange(1, 1200)))
        texts.append(text)
        left_bytes -= len(text.encode())
    texts.append("a long line\n" * 500_000)  # comes in parts
    quarter = len(texts) // 4
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "a.jsonl").write_text("".join(lines[:quarter]), encoding="utf-8")
    (folder / "b.txt").write_text("\n<end>\n".join(texts[quarter : 2 * quarter]), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": texts[2 * quarter : 3 * quarter]}), folder / "c.parquet")
    with gzip.open(folder / "d.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
        file.writelines(lines[3 * quarter :])
    data = ["--data.files", "a.jsonl", "b.txt", "c.parquet", "d.jsonl.gz", "--data.separator", "<end>"]
    data += ["--data.dedup", "true", "--data.shard_tokens", "50000", "--data.workers", "2"]
    return ["prepare", "shakespeare", *data, "--tokenizer.kind", "huggingface", "--tokenizer.vocab_size", "400"]


def start(folder: Path, command: list[str], out: str) -> "subprocess.Popen[bytes]":
    """A smalllm process of ours; what it says goes to a file, from its beginning."""
    with (folder / "log.txt").open("wb") as log:
        words = [sys.executable, *command, "--out", out]
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)


def finish(folder: Path, command: list[str], out: str) -> None:
    """Run it to its end; it must succeed."""
    process = start(folder, command, out)
    try:
        code = process.wait(timeout=LIMIT_S)
    finally:
        process.kill()
    if code != 0:
        raise SystemExit(f"{log_of(folder)}\n{' '.join(command)} exited with {code}")


def kill(folder: Path, command: list[str], moment: int, kind: str, draw: random.Random) -> str | None:
    """Continue the preparation and kill it.

    Args:
        folder: of the corpus.
        command: what prepares it.
        moment: not before so many pieces are recorded.
        kind: "command", "worker" or "start".
        draw: decides the moment.

    Returns:
        What went wrong, "" if nothing did, or None if the process had ended before.
    """
    process = start(folder, command, "killed")
    began_at = time.monotonic()
    try:
        if kind == "start":
            time.sleep(draw.uniform(0.0, STARTUP_S))
        else:
            while process.poll() is None and (
                progress(folder) <= moment or (kind == "worker" and not children(process.pid))
            ):
                if time.monotonic() - began_at > LIMIT_S:
                    raise SystemExit(f"nothing happened for {LIMIT_S:.0f} s; the command hangs")
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.1))
        workers = children(process.pid)
        if process.poll() is not None:
            return None
        if kind == "worker" and workers:
            os.kill(draw.choice(workers), signal.SIGKILL)
            return told_of_worker(folder, process) or left_behind(workers)
        process.kill()
        process.wait()
        return left_behind(workers)
    finally:
        process.kill()
        process.wait()


def told_of_worker(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """What is wrong with how the command takes the loss of a worker."""
    code, said = process.wait(timeout=LIMIT_S), log_of(folder)
    if code == 0:  # it had given all it had to give
        return ""
    if code != 1 or "Traceback" in said or "SIGKILL" not in said:
        return f"a killed worker was answered with exit code {code} and: {said[-300:]}"
    return ""


def left_behind(workers: list[int]) -> str:
    """Which of the processes are still there after a while, in words."""
    until = time.monotonic() + GONE_S
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.01)
    left = [pid for pid in workers if is_running(pid)]
    return f"processes {left} outlived the command by {GONE_S:.0f} s" if left else ""


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(word) for task in tasks for word in task.read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def progress(folder: Path) -> int:
    """How many pieces of documents the killed preparation has recorded as done."""
    try:
        found: dict[str, Any] = json.loads((folder / "killed" / ".prepare.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    return int(found["pieces"])


def log_of(folder: Path) -> str:
    """What the last process said."""
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def tree(directory: Path) -> dict[str, str]:
    """The sha256 of every file."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
