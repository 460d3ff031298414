"""llama.cpp, by the llama-cpp-python package, asked what it makes of a GGUF file.

Not in this process: see `llama_cpp_child.py`.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smalllm.errors import InteropError
from smalllm.interop import llama_cpp_child


@dataclass(frozen=True, slots=True)
class LlamaCppAnswer:
    """What llama.cpp computed."""

    version: str
    ids: list[list[int]]
    pieces: list[bytes]
    logits: Tensor
    continued: list[int]


def ask_llama_cpp(
    path: Path,
    texts: Sequence[str],
    token_ids: Sequence[int],
    n_prompt: int,
    n_continued: int,
    notice: Callable[[str], None],
) -> LlamaCppAnswer | None:
    """Run a file in llama.cpp.

    Args:
        path: the file.
        texts: to encode.
        token_ids: whose logits are computed; the first `n_prompt` are continued, too.
        n_prompt: at least 1.
        n_continued: how many tokens are added to the prompt, greedily.
        notice: told where llama.cpp is installed and cannot be loaded.

    Returns:
        None where it is not installed, or cannot be loaded.

    Raises:
        InteropError: it does not take the file, or crashes on it.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    request = {
        "path": str(path.resolve()),
        "texts": list(texts),
        "token_ids": list(token_ids),
        "prompt": list(token_ids[:n_prompt]),
        "n_continued": n_continued,
        "n_threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.npz")
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", llama_cpp_child.__file__, str(asked), str(answered)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode == llama_cpp_child.NOT_LOADED:
            notice(f"llama-cpp-python is installed and cannot be loaded: {_message(done.stderr)}")
            return None
        if done.returncode or not answered.is_file():
            ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
            raise InteropError(
                f"llama.cpp does not run the file (it ended with {ended}): {_message(done.stderr)}. Nothing was "
                "kept; try another --dtype, or update llama-cpp-python"
            )
        return _read(answered)


def _read(answered: Path) -> LlamaCppAnswer:
    with np.load(answered) as found:
        return LlamaCppAnswer(
            str(found["version"]),
            [part.tolist() for part in np.split(found["ids"], np.cumsum(found["n_ids"])[:-1])],
            [part.tobytes() for part in np.split(found["pieces"], np.cumsum(found["n_bytes"])[:-1])],
            torch.from_numpy(found["logits"]),
            found["continued"].tolist(),
        )


def _message(stderr: str) -> str:
    """What was said first, and of a traceback last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
