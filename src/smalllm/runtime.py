"""What this machine is and can do: device, precision, threads, compiler, peak speed, memory.

Everything is looked at when asked for, never at import.
"""

import contextlib
import ctypes
import functools
import os
import platform
import resource
import secrets
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalllm.config import DeviceChoice, Precision
from smalllm.errors import ConfigError

# Dense BF16 tensor-core rates [FLOP/s] by a part of the device's name. Source: NVIDIA data sheets.
_PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "RTX 4090": 165e12, "RTX 3090": 71e12, "T4": 65e12,
}  # fmt: skip
_MATMUL_SIZE = 4096


def pick_device(choice: DeviceChoice) -> DeviceChoice:
    """The device to run on: "cpu", "cuda" or "mps".

    Args:
        choice: one of these, or "auto" for the fastest present.

    Raises:
        ConfigError: a device was asked for that this machine does not have.
    """
    present: dict[DeviceChoice, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if choice == "auto":
        return next(name for name, is_there in present.items() if is_there)
    if not present[choice]:
        names = ", ".join(name for name, is_there in present.items() if is_there)
        raise ConfigError(
            f'train.device = "{choice}": this machine and this PyTorch have {names}; choose one of them or "auto"'
        )
    return choice


def pick_precision(choice: Precision, device: str) -> Precision:
    """The arithmetic of the matrix products: "auto" becomes "bf16" where the processor has it, else "fp16" on an
    NVIDIA GPU with tensor cores, else "fp32".

    Raises:
        ConfigError: tf32 asked for on a device that has none.
    """
    if choice == "auto":
        if has_bf16(device):
            return "bf16"
        has_tensor_cores = device == "cuda" and torch.cuda.get_device_capability()[0] >= 7
        return "fp16" if has_tensor_cores else "fp32"
    if choice == "tf32" and device != "cuda":
        raise ConfigError('train.precision = "tf32": only NVIDIA GPUs have it; use "fp32" or "auto"')
    return choice


def has_bf16(device: str) -> bool:
    """Whether BF16 products are native. Emulated ones are tens of times slower than FP32 (pytorch#146508)."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return device == "cpu" and bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def is_native(precision: str, device: str) -> bool:
    """Whether the device multiplies in this precision by itself; emulated products are tens of times slower or more."""
    if precision == "fp16":
        return device != "cpu" or bool({"avx512_fp16", "amx_fp16"} & cpu_flags())
    return has_bf16(device) if precision == "bf16" else precision != "tf32" or device == "cuda"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def cpu_name() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def n_physical_cores() -> int:
    """Cores this process may use; two hardware threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    return max(1, len(cores))


def missing_compiler(device: str) -> str | None:
    """What `torch.compile` lacks on this machine, in words; None when it can run."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        return "no C++ compiler (g++ or clang++) was found"
    if device == "cpu" and not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's C headers (Python.h, package python3-dev) were not found"
    if device == "mps":
        return "compilation is not used on mps"
    return None


def broken_compiler(device: str) -> str:
    """In words why `torch.compile` fails here on a function of one line; empty where it works. Takes some seconds."""
    new = secrets.randbits(40)  # what a function with it compiles to lies in no cache

    def scaled_sum(x: Tensor) -> Tensor:
        return (x * new).sum()

    try:
        torch.compile(scaled_sum, dynamic=False)(torch.ones(64, device=device, requires_grad=True)).backward()
    except Exception as error:  # the compiler is a program of its own, with failures of its own
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """What an error of another program says, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def configure(*, threads: int, precision: str) -> None:
    """Set process-wide switches once, before the first tensor of a run.

    Freed memory is kept rather than returned: activations come and go each step, and fresh pages cost a fault for
    every 4 KiB (about 10 % of a CPU training step). Blocks of 32 MiB and more, logits for one, are returned: kept,
    they leave holes, a fifth of the peak, and gain nothing (see docs/log.md).
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 32 << 20)
            libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def use_products(precision: str, device: str) -> None:
    """Have CUDA multiply FP32 matrices as this precision says; it is a switch of the process. Others have FP32 only."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def product_dtype(precision: str) -> torch.dtype:
    """The type of the numbers that matrix products take and give."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def autocast(device: str, precision: str) -> Any:
    """A context in which matrix products run in `precision`."""
    dtype = product_dtype(precision)
    is_half = dtype != torch.float32
    return torch.autocast(device, dtype=dtype if is_half else torch.bfloat16, enabled=is_half)


@functools.cache
def matmul_flops(device: str, precision: str) -> float:
    """What `measure_matmul` found at the first call [FLOP/s]."""
    return measure_matmul(device, precision)


def measure_matmul(device: str, precision: str) -> float:
    """The best measured rate of a 4096 x 4096 x 4096 product [FLOP/s]. Takes about a second."""
    dtype = product_dtype(precision)
    a = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device=device).to(dtype)
    best_s = float("inf")
    for _ in range(4):
        synchronize(device)
        started_at = time.perf_counter()
        a @ a
        synchronize(device)
        best_s = min(best_s, time.perf_counter() - started_at)
    return float(2 * _MATMUL_SIZE**3 / best_s)


def peak_flops(device: str) -> float:
    """What `mfu` divides by [FLOP/s]: the data sheet's BF16 rate of a known GPU, else the measured one
    of a product in the precision that suits the device.
    """
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for part, flops in _PEAK_FLOPS.items():
            if part in name:
                return flops
    return matmul_flops(device, pick_precision("auto", device))


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: `smalllm` in `XDG_CACHE_HOME`, else in `~/.cache`.

    Raises:
        ConfigError: neither that variable nor a home is known.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "smalllm")
    except RuntimeError as error:
        raise ConfigError(
            f"nothing says where to keep what is fetched: HOME is not set, and user {os.getuid()} has no home; set "
            "HOME or XDG_CACHE_HOME"
        ) from error


def in_fp64(tensor: Tensor) -> Tensor:
    """A tensor in FP64: where it is, or on the CPU if its device has no such numbers, as mps."""
    return (tensor.cpu() if tensor.is_mps else tensor).double()


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def free_memory_bytes(device: str) -> int:
    """Memory that a run could still get [bytes]: of the GPU, else of the machine within the limits of this process.

    2^63 - 1 where nothing says.
    """
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    found = [sys.maxsize]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        found.append(limit)
    return min(found)


def peak_memory_bytes(device: str) -> int:
    """Most memory used so far [bytes]: of the GPU by tensors, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):  # Linux: getrusage counts what the process that started this one had, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def environment(device: str) -> dict[str, Any]:
    """Facts of the machine and the software, for the run's `environment.json`."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "device_kind": device,
        "cores": n_physical_cores(),
        "peak_flops": peak_flops(device),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
