"""llama.cpp in a process of its own, which continues prompts when told to."""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from smalllm.errors import InteropError
from smalllm.interop import llama_cpp_speed_child


class LlamaCppSpeed:
    """A GGUF file, loaded by llama.cpp; a context manager.

    Args:
        path: the file.
        n_sequences: most at once.
        n_positions: most of each [tokens].
    """

    def __init__(self, path: Path, *, n_sequences: int, n_positions: int) -> None:
        numbers = map(str, (n_sequences, n_positions, torch.get_num_threads()))
        self._command = [sys.executable, "-P", llama_cpp_speed_child.__file__, str(path), *numbers]

    def __enter__(self) -> "LlamaCppSpeed":
        self._errors: Any = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def go(self, prompts: list[list[int]], n_new: int) -> None:
        """Continue prompts greedily, and wait until that is done.

        Raises:
            InteropError: llama.cpp has failed.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer will be missing, and says why
            self._process.stdin.write(json.dumps({"prompts": prompts, "n_new": n_new}) + "\n")
            self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline():
            return
        self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()] or ["no message"]
        raise InteropError(f"llama.cpp ended with status {self._process.returncode}: {said[-1]}")
