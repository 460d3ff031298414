"""How the server bears many clients at once: a process of `smalllm serve`, asked by threads of this one.

First one client asks, one request after the other; then many at once. All prompts differ, so that none is read for
another.
"""

import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from smalllm.errors import ConfigError, RunError
from smalllm.protocols import Progress, Silent

_PATIENCE_S = 120.0
_WARM_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeBench:
    """What was measured.

    Attributes:
        run: that was served.
        precision: of the weights.
        clients: that asked at once.
        prompt_tokens: in each prompt.
        new_tokens: that each request asked for.
        requests: that were answered.
        errors: that were not.
        tokens_per_second: written for all clients together.
        alone_tokens_per_second: written for one client alone.
        ratio: of the two.
        slowest_to_fastest: tokens of the client that got fewest, over those of the one that got most.
        first_token_s: median and 99th percentile of the time from a request to its first token, with all clients [s].
        alone_first_token_s: the same of one client.
        memory_bytes: resident in the server once all clients were there, so that every slot has been written to.
        memory_growth_bytes: of it from then to the end; None where the system does not tell.
    """

    run: str
    precision: str
    clients: int
    prompt_tokens: int
    new_tokens: int
    requests: int
    errors: int
    tokens_per_second: float
    alone_tokens_per_second: float
    ratio: float
    slowest_to_fastest: float
    first_token_s: tuple[float, float]
    alone_first_token_s: tuple[float, float]
    memory_bytes: int | None
    memory_growth_bytes: int | None


@dataclass(slots=True)
class _Client:
    """What one client got."""

    n_tokens: int = 0
    n_requests: int = 0
    n_errors: int = 0
    first_token_s: list[float] = field(default_factory=list)


_Group = tuple[list[_Client], float]
"""Clients, and how long it was until the last answer [s]."""


def bench_serve(
    run: str | Path,
    *,
    clients: int = 32,
    seconds: float = 20.0,
    prompt_tokens: int = 64,
    new_tokens: int = 64,
    precision: str = "auto",
    progress: Progress | None = None,
) -> ServeBench:
    """Serve a run and ask it, greedily.

    Args:
        run: a run directory, or one checkpoint.
        clients: that ask at once.
        seconds: that they go on asking; one alone asks half as long before.
        prompt_tokens: in each prompt, drawn at random.
        new_tokens: that each request asks for; the end of a document ends it before.
        precision: of the weights.
        progress: who is told how it goes.

    Raises:
        ConfigError: an argument means nothing.
        RunError: the server did not start; what it said is in the message.
    """
    if clients < 1 or seconds <= 0 or prompt_tokens < 1 or new_tokens < 1:
        raise ConfigError("clients, seconds, prompt_tokens and new_tokens must each be more than 0")
    progress = progress or Silent()
    progress.say(f"serving {run}")
    with _served(run, precision) as (port, pid):
        card = _card(port)
        if prompt_tokens + new_tokens > card["context_length"]:
            raise ConfigError(
                f"--prompt_tokens {prompt_tokens} and --new_tokens {new_tokens}: the model sees "
                f"{card['context_length']:,} together"
            )
        sizes = card["vocab_size"], prompt_tokens, new_tokens
        _ask_together(port, 1, _WARM_S, sizes)
        progress.say(f"one client for {seconds / 2:g} s")
        alone = _ask_together(port, 1, seconds / 2, sizes)
        progress.say(f"{clients} clients for {seconds:g} s")
        _ask_together(port, clients, _WARM_S, sizes)
        before = _memory_bytes(pid)
        together = _ask_together(port, clients, seconds, sizes)
        memory = before, _memory_bytes(pid)
    what = {"run": str(run), "precision": card["precision"], "clients": clients}
    return _found({**what, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}, alone, together, memory)


def _found(what: dict[str, Any], alone: _Group, together: _Group, memory: tuple[int | None, int | None]) -> ServeBench:
    everyone, tokens = [*alone[0], *together[0]], [client.n_tokens for client in together[0]]
    rate, alone_rate = sum(tokens) / together[1], alone[0][0].n_tokens / alone[1]
    before, after = memory
    return ServeBench(
        **what,
        requests=sum(client.n_requests for client in everyone),
        errors=sum(client.n_errors for client in everyone),
        tokens_per_second=rate,
        alone_tokens_per_second=alone_rate,
        ratio=rate / alone_rate if alone_rate else 0.0,
        slowest_to_fastest=min(tokens) / max(1, *tokens),
        first_token_s=_middle_and_late(together[0]),
        alone_first_token_s=_middle_and_late(alone[0]),
        memory_bytes=before,
        memory_growth_bytes=None if before is None or after is None else after - before,
    )


@contextlib.contextmanager
def _served(run: str | Path, precision: str) -> Iterator[tuple[int, int]]:
    """A server as a process: its port and its id."""
    words = [sys.executable, "-m", "smalllm", "serve", str(run), "--port", "0", "--quiet", "--precision", precision]
    surroundings = {name: value for name, value in os.environ.items() if name != "SMALLLM_TOKEN"}
    with tempfile.TemporaryFile("w+") as said:  # not a pipe, which nobody would empty
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said, text=True, env=surroundings)
        assert process.stdout is not None
        try:
            address = re.search(r":(\d+)\s*$", process.stdout.readline())
            if address is None:
                process.wait()
                said.seek(0)
                raise RunError(f"the server did not start: {said.read().strip()}")
            yield int(address[1]), process.pid
        finally:
            process.terminate()
            process.communicate()


def _card(port: int) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models")
        (card,) = json.loads(connection.getresponse().read())["data"]
    return dict(card)


def _ask_together(port: int, n: int, seconds: float, sizes: tuple[int, int, int]) -> _Group:
    """Clients that each ask until time is over, and how long it was until the last answer."""
    found, start_s = [_Client() for _ in range(n)], time.monotonic()
    threads = [
        threading.Thread(target=_ask, args=(port, client, start_s + seconds, sizes, seed))
        for seed, client in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, time.monotonic() - start_s


def _ask(port: int, client: _Client, end_s: float, sizes: tuple[int, int, int], seed: int) -> None:
    vocab_size, prompt_tokens, new_tokens = sizes
    draw = random.Random(f"{seed} {end_s}")
    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    while time.monotonic() < end_s:
        fields = {
            "prompt": [draw.randrange(vocab_size) for _ in range(prompt_tokens)],
            "max_tokens": new_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            _ask_once(connection, json.dumps(fields).encode(), client)
        except (OSError, HTTPException, ValueError):
            client.n_errors += 1
            connection.close()
            time.sleep(0.05)
    connection.close()


def _ask_once(connection: HTTPConnection, body: bytes, client: _Client) -> None:
    """One request and its stream.

    Raises:
        ValueError: the answer is not what it should be.
    """
    start_s = time.monotonic()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer, found, first_s = connection.getresponse(), b"", None
    while piece := answer.read1():
        first_s = first_s or time.monotonic() - start_s
        found = found[-2_000:] + piece
    usage = re.search(rb'"completion_tokens":(\d+)', found)
    if answer.status != 200 or not found.endswith(b"data: [DONE]\n\n") or usage is None or first_s is None:
        raise ValueError(f"status {answer.status}")
    client.n_requests += 1
    client.n_tokens += int(usage[1])
    client.first_token_s.append(first_s)


def _middle_and_late(clients: Sequence[_Client]) -> tuple[float, float]:
    seconds = sorted(s for client in clients for s in client.first_token_s)
    return (statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]) if seconds else (0.0, 0.0)


def _memory_bytes(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None
