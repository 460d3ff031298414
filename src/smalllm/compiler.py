"""Our C++ as libraries of this machine: compiled when first used, in a second or two, and kept."""

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from smalllm import runtime
from smalllm.errors import ConfigError

_SHARED = Path(__file__).with_name("cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_TIMEOUT_S = 120


@functools.cache
def load_library(source: Path) -> ctypes.CDLL | str:
    """A C++ file and the headers beside it as a library, or in words why there is none."""
    if sys.platform != "linux":
        return f"it is compiled on Linux only, and this is {sys.platform}"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler (g++ or clang++) was found"
    try:
        path = _built(source, compiler)
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(path))
        path.unlink(missing_ok=True)  # damaged on the disk: made anew, once
        return ctypes.CDLL(str(_built(source, compiler)))
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()] or ["no message"]
        return f"{compiler} failed: {said[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler}: {error}"


def _built(source: Path, compiler: str) -> Path:
    """The library's file, named by all that decides what is in it; made if it is not there."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    headers = [*sorted(source.parent.glob("*.h")), *sorted(_SHARED.glob("*.h"))]
    facts = [
        *(path.read_text(encoding="utf-8") for path in (source, *headers)),
        *_FLAGS,
        version,
        torch.__version__,
        torch.__file__,
    ]
    facts += [runtime.cpu_name(), *sorted(runtime.cpu_flags())]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]
    folder = _cache_folder()
    library = folder / f"{source.stem}-{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            half, made = Path(work, "half.o"), Path(work, "whole.so")
            _run([compiler, *_FLAGS, "-c", str(source), "-o", str(half)])
            _run([compiler, "-shared", str(half), "-o", str(made), *_openmp(version)])
            with made.open("rb") as whole:
                os.fsync(whole.fileno())  # half a library would end the process that loads it
            os.replace(made, library)  # whole or not at all, whoever else builds it now
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)


def _openmp(version: str) -> list[str]:
    """PyTorch's own OpenMP, so that both have one set of threads; else the compiler's, as clang needs it."""
    for path in [] if "clang" in version else sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        return [str(path), f"-Wl,-rpath,{path.parent}"]
    return ["-fopenmp"]


def _cache_folder() -> Path:
    """The user's own, since what lies there is run."""
    try:
        folder = runtime.cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
        if os.access(folder, os.W_OK) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            return folder
    except (ConfigError, OSError):
        pass
    return Path(_private_folder().name)


@functools.cache
def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where there is no cache: gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="smalllm-")
