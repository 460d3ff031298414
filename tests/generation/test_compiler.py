"""The compiled library: where it is kept, and what is said where it cannot be had."""

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generation_helpers import BACKENDS, GREEDY, make_decoder
from smalllm.compiler import _built, load_library
from smalllm.config import ModelConfig
from smalllm.errors import ConfigError
from smalllm.generation.native import NativeReader, load_decoder
from smalllm.model.gpt import GPT

pytestmark = pytest.mark.skipif("compiled" not in BACKENDS, reason="decode.cpp cannot be compiled here")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def test_it_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(load_decoder(), ctypes.CDLL)
    (library,) = (tmp_path / "smalllm").iterdir()
    made_at = library.stat().st_mtime_ns
    load_library.cache_clear()
    assert isinstance(load_decoder(), ctypes.CDLL)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "smalllm").iterdir()] == [made_at]


@pytest.mark.parametrize("left", [b"", b"damaged"])
def test_a_damaged_library_is_made_anew(left: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "smalllm").mkdir(mode=0o700)
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return 42; }\n')
    _built(source, "g++").write_bytes(left)
    found = load_library(source)
    assert isinstance(found, ctypes.CDLL) and found.answer() == 42


def test_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smalllm").mkdir()
    (tmp_path / "smalllm").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(load_decoder(), ctypes.CDLL)
    assert not list((tmp_path / "smalllm").iterdir())


def test_without_a_home_it_is_compiled_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert isinstance(load_decoder(), ctypes.CDLL)


def test_weights_lie_where_huge_pages_can_be(tiny_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    """In private memory: shared memory, which `mmap` gives by default, gets none."""
    reader = NativeReader(make_model(tiny_config), n_slots=1, weights="fp32")
    address = reader._keys.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ", line)
        if match and int(match[1], 16) <= address < int(match[2], 16):
            assert match[3] == "rw-p"
            return
    pytest.fail("the memory was not found")


@pytest.mark.parametrize(("compiler", "says"), [("false", "false"), ("/none/g++", "/none/g"), ("", "no C")])
def test_without_a_compiler_pytorch_takes_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: ModelConfig,
    make_model: Callable[..., GPT],
    compiler: str,
    says: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    found = load_decoder()
    assert isinstance(found, str) and says in found
    decoder = make_decoder(make_model(tiny_config))
    decoder.add([1], GREEDY)
    assert decoder.backend == "torch" and len(decoder.step()) == 1
    with pytest.raises(ConfigError, match=f'backend = "compiled": .*{says}'):
        make_decoder(make_model(tiny_config), backend="compiled")
    with pytest.raises(ConfigError, match=f"only the compiled decoder has it, .*{says}"):
        make_decoder(make_model(tiny_config), precision="int8")
