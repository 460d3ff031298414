"""A few updates in a process of their own, timed from here: for `bench train` and `plan`."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from smalllm.config import Precision, RunConfig, as_dict
from smalllm.errors import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One way to train.

    Attributes:
        library: "smalllm" or "transformers".
        precision: fp32, tf32 or bf16.
        compile: by torch.compile.
    """

    library: str
    precision: Precision
    compile: bool

    @property
    def name(self) -> str:
        """As it is shown: "transformers, bf16, compiled"."""
        return f"{self.library}, {self.precision}, {'compiled' if self.compile else 'eager'}"


class Child:
    """The process of one contestant, seen from here."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: Any) -> None:
        self._name, self._process, self._errors = name, process, errors

    def ask(self, n_micro: int) -> dict[str, Any]:
        """Make an update of so many micro-batches: its `seconds`, and the `peak_memory_bytes` so far.

        Raises:
            RunError: the process has ended; the message has the last that it said.
        """
        return self.send(str(n_micro))

    def send(self, line: str) -> dict[str, Any]:
        """Send a line and wait for the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the answer will be missing, and says why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        found = self._process.stdout.readline()
        if not found:
            self._process.wait()
            self._errors.seek(0)
            said = [one.strip() for one in self._errors.read().splitlines() if one.strip()] or ["no message"]
            raise RunError(f"{self._name}: ended with status {self._process.returncode}: {said[-1]}")
        answered: dict[str, Any] = json.loads(found)
        return answered


@contextlib.contextmanager
def started(config: RunConfig, vocab_size: int, n_micro: int, contestant: Contestant) -> Iterator[Child]:
    """A contestant that has compiled and waits.

    Args:
        config: resolved.
        vocab_size: real token ids.
        n_micro: micro-batches that it holds, the most that an update may have.
        contestant: what it runs.

    Raises:
        RunError: it failed.
    """
    train = replace(config.train, precision=contestant.precision, compile=contestant.compile)
    request = {
        "library": contestant.library,
        "config": as_dict(replace(config, train=train)),
        "vocab_size": vocab_size,
        "micro_batches": n_micro,
    }
    command = [sys.executable, "-P", "-m", "smalllm.api.trial_child"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            child = Child(contestant.name, process, errors)
            child.send(json.dumps(request))
            yield child
        finally:
            process.kill()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # what a process that has ended did not read is still held
                process.stdin.close()
