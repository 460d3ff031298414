"""What is said of this machine, and that what it lacks is refused; the structural types that parts are held to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smalllm import runtime
from smalllm.api.tasks import open_tasks
from smalllm.errors import ConfigError
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.tokenizers.bytes import build_bytes


def test_auto_picks_a_device_that_is_there() -> None:
    picked = runtime.pick_device("auto")
    assert runtime.pick_device(picked) == picked
    assert runtime.pick_device("cpu") == "cpu"
    torch.zeros(1, device=picked)


def test_an_absent_device_is_refused_by_name() -> None:
    absent = [
        name
        for name, is_there in (("cuda", torch.cuda.is_available()), ("mps", torch.mps.is_available()))
        if not is_there
    ]
    for name in absent:
        with pytest.raises(
            ConfigError, match=rf'train\.device = "{name}": .* have .*cpu; choose one of them or "auto"'
        ):
            runtime.pick_device(name)  # type: ignore[arg-type]


def test_precision() -> None:
    for precision, flag in (("bf16", "amx_bf16"), ("bf16", "avx512_bf16"), ("fp16", "avx512_fp16")):
        for flags in ({flag}, {"avx2"}):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(runtime, "cpu_flags", lambda flags=flags: flags)
                assert runtime.is_native(precision, "cpu") == (flag in flags)
    assert runtime.is_native("fp32", "cpu") and runtime.is_native("tf32", "cuda")
    assert not runtime.is_native("tf32", "cpu") and not runtime.is_native("tf32", "mps")
    assert runtime.pick_precision("auto", "cpu") == ("bf16" if runtime.has_bf16("cpu") else "fp32")
    assert runtime.pick_precision("auto", "mps") == "fp32"
    assert runtime.pick_precision("fp32", "cpu") == "fp32"
    assert runtime.pick_precision("tf32", "cuda") == "tf32"
    with pytest.raises(ConfigError, match=r'train\.precision = "tf32": only NVIDIA GPUs have it'):
        runtime.pick_precision("tf32", "cpu")


def test_autocast_is_on_for_bf16_only() -> None:
    a = torch.ones(2, 2)
    with runtime.autocast("cpu", "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    for precision in ("fp32", "tf32"):
        with runtime.autocast("cpu", precision):
            assert (a @ a).dtype == torch.float32


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in str(runtime.missing_compiler("cpu"))
    compiler = tmp_path / "my-c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "C++" not in str(runtime.missing_compiler("cuda"))
    assert runtime.missing_compiler("mps") == "compilation is not used on mps"


@pytest.mark.parametrize(
    ("compiler", "says"), [("false", "No working C++ compiler"), pytest.param(None, "", marks=pytest.mark.slow)]
)
def test_a_compiler_that_does_not_work_is_found(compiler: str | None, says: str) -> None:
    if compiler is None and runtime.missing_compiler("cpu"):
        pytest.skip("there is none")
    program = "from smalllm import runtime; print(runtime.broken_compiler('cpu'))"
    changed = {"CXX": compiler} if compiler else {}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | changed)
    assert done.returncode == 0 and says in done.stdout and bool(done.stdout.strip()) == bool(says)


def test_without_a_home_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_folder() == tmp_path / "smalllm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runtime.cache_folder() == tmp_path / ".cache" / "smalllm"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ConfigError, match="set HOME or XDG_CACHE_HOME"):
        runtime.cache_folder()
    assert open_tasks([]) == []


def test_facts_of_the_machine() -> None:
    assert 1 <= runtime.n_physical_cores() <= 4096
    assert runtime.cpu_name()
    assert 10**7 < runtime.peak_memory_bytes("cpu") < 10**13  # this process, in bytes
    runtime.synchronize("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "torch.float16"), ("fp32", "torch.float32")])
def test_a_rate_is_measured_in_the_precision_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: str
) -> None:
    multiplied: list[str] = []
    monkeypatch.setattr(runtime, "_MATMUL_SIZE", 8)
    monkeypatch.setattr(runtime, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: multiplied.append(str(a.dtype)))
    runtime.measure_matmul("cpu", precision)
    assert set(multiplied) == {dtype}


def test_configure_sets_the_whole_process() -> None:
    program = (
        "import torch; from smalllm import runtime; runtime.configure(threads=1, precision='tf32');"
        "print(torch.get_num_threads(), torch.get_float32_matmul_precision());"
        "runtime.configure(threads=2, precision='fp32');"
        "print(torch.get_num_threads(), torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 high\n2 highest\n", "")


def test_protocols_tell_what_fits_from_what_does_not() -> None:
    assert isinstance(build_bytes(), Tokenizer)
    assert not isinstance(b"", Tokenizer)
    silent: Progress = Silent()
    silent.begin("x", total=2, done=1)
    silent.row({"step": 1})
    silent.advance(2, "note")
    silent.say("text")
    silent.end()
