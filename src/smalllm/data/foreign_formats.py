"""Recognises one file of token ids that another program wrote, by its first bytes, and measures it.

    nanogpt   no header; uint16
    llmc      256 int32: magic 20240520 and version 1, or 20240801 and 7; number of ids; zeros. Then uint16, or uint32
    npy       NumPy's header of a one-dimensional array of uint16, uint32 or int32

All little-endian, but for npy, which says. None of them records the tokenizer. No more than the header is read, and
nothing is ever unpickled: an object array is refused by its header.
Source: karpathy/nanoGPT `data/openwebtext/prepare.py`; karpathy/llm.c `dev/data/data_common.py`; karpathy/build-nanogpt
`fineweb.py`; NumPy Enhancement Proposal 1.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from smalllm.data.manifest import Layout
from smalllm.errors import DataError

SUFFIXES = (".bin", ".npy")
"""The names of files that are looked into."""

_HEADER_BYTES = 1024
_LLMC = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_OTHER_LLMC = {
    20240326: "a model",
    20240327: "a debugging state",
    20240328: "a tokenizer",
    20240522: "evaluation questions",
    20240527: "a training state",
}
_NPY_MAGIC = b"\x93NUMPY"
_NPY_DTYPES = {
    f"{order}{code}": name for code, name in {"u2": "uint16", "u4": "uint32", "i4": "int32"}.items() for order in "<>"
}
_MAX_NPY_HEADER_BYTES = 10_000
_ENOUGH_IDS = 64  # to tell 2-byte ids from 4-byte ones


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """A file of token ids: what it is called in messages, its format, and where its `tokens` ids lie."""

    name: str
    path: Path
    format: str
    layout: Layout
    tokens: int

    @property
    def n_bytes(self) -> int:
        """Length of the ids, without the header [bytes]."""
        return self.tokens * np.dtype(self.layout.dtype).itemsize


def recognise(path: Path, *, name: str) -> ForeignFile:
    """Look at the first bytes and the size of a file.

    Args:
        path: the file.
        name: what to call it, in messages and manifests.

    Raises:
        DataError: it is empty, cut short, too long, or something else than token ids; the message says where.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
        if not head:
            raise DataError(f"{path}: the file is empty; expected token ids. Copy it again, or remove it.")
        if head.startswith(_NPY_MAGIC):
            stream.seek(0)
            layout, tokens = _npy(path, stream)
            return _sized(ForeignFile(name, path, "npy", layout, tokens), size_bytes)
    if path.suffix == ".npy":
        raise DataError(
            f"{path}: byte 0: starts with {head[:6]!r}; expected {_NPY_MAGIC!r}, NumPy's magic. The file is damaged, "
            "or no array: save the ids with numpy.save."
        )
    words = np.frombuffer(head[: len(head) // 4 * 4], "<i4")
    if len(words) and int(words[0]) in _LLMC:
        return _sized(ForeignFile(name, path, "llmc", *_llmc(path, words)), size_bytes)
    _refuse_other_headers(path, words)
    return _headerless(path, name=name, head=head, size_bytes=size_bytes)


def _llmc(path: Path, words: NDArray[np.int32]) -> tuple[Layout, int]:
    if len(words) < 256:
        raise DataError(f"{path}: ends within its header, at byte {4 * len(words)} of {_HEADER_BYTES}. Copy it again.")
    magic, version, tokens = words[:3].tolist()
    expected, dtype = _LLMC[magic]
    if version != expected:
        raise DataError(
            f"{path}: byte 4: version {version} of magic {magic}; this smalllm reads {expected}. Write the ids again "
            "with llm.c's own scripts, or as .npy."
        )
    return Layout(dtype, _HEADER_BYTES), tokens


def _refuse_other_headers(path: Path, words: NDArray[np.int32]) -> None:
    """A header that is not read would be taken for ids."""
    first = int(words[0]) if len(words) else 0
    if first in _OTHER_LLMC:
        raise DataError(
            f"{path}: byte 0: magic {first}: {_OTHER_LLMC[first]} of llm.c, not token ids. Move it out of the folder."
        )
    if len(words) == 256 and words[:3].all() and not words[3:].any():
        raise DataError(
            f"{path}: byte 0: magic {first}, version {words[1]}, in what looks like a header of llm.c; expected "
            f"{_either([f'magic {m}, version {v}' for m, (v, _) in _LLMC.items()])}. The file is damaged, or of a "
            "version that this smalllm does not read."
        )


def _headerless(path: Path, *, name: str, head: bytes, size_bytes: int) -> ForeignFile:
    if size_bytes % 2:
        raise DataError(
            f"{path}: has {size_bytes:,} bytes, an odd number, and no header that is known; expected the 2-byte ids of "
            "nanoGPT. The file was cut short, or holds no token ids."
        )
    ids = np.frombuffer(head[: len(head) // 4 * 4], "<u2")
    if len(ids) >= _ENOUGH_IDS and ids[1::2].max() <= 1 < np.median(ids[0::2]):
        raise DataError(
            f"{path}: byte 2: every second 2-byte id is {'0' if not ids[1::2].any() else '0 or 1'}, so these look like "
            "4-byte ids; expected the 2-byte ids of nanoGPT, as there is no header. Save them as .npy, which says "
            "which they are: numpy.save(NEW, numpy.fromfile(OLD, 'uint32'))."
        )
    return ForeignFile(name, path, "nanogpt", Layout("<u2", 0), size_bytes // 2)


def _npy(path: Path, stream: BinaryIO) -> tuple[Layout, int]:
    """Read a header of NumPy's format 1.0 or 2.0: magic, version, length, and a Python dictionary as text."""
    version = stream.read(len(_NPY_MAGIC) + 2)[len(_NPY_MAGIC) :]
    n_length_bytes = {b"\1\0": 2, b"\2\0": 4}.get(version)
    if n_length_bytes is None:
        raise _bad_header(path, f"version {'.'.join(map(str, version))}; this smalllm reads 1.0 and 2.0")
    n_bytes = int.from_bytes(stream.read(n_length_bytes), "little")
    text = stream.read(min(n_bytes, _MAX_NPY_HEADER_BYTES)).decode("latin-1")
    if len(text) != n_bytes:
        raise _bad_header(path, f"{n_bytes:,} bytes long, but {len(text):,} were read")
    try:
        # numpy.lib.format reads it too, but damaged headers make it fail in a dozen ways.
        header = ast.literal_eval(text.strip())
        descr, shape = header["descr"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise _bad_header(path, f"no dictionary with descr and shape: {text[:60]!r}") from error
    _check_array(path, descr, shape)
    return Layout(descr, stream.tell()), shape[0]


def _bad_header(path: Path, problem: str) -> DataError:
    return DataError(
        f"{path}: byte {len(_NPY_MAGIC)}: the header cannot be read ({problem}). Copy the file again, or save the ids "
        "anew with numpy.save."
    )


def _check_array(path: Path, descr: object, shape: object) -> None:
    advice = "Save the ids as one flat array: numpy.save(FILE, ids.astype('uint16'))."
    if descr in ("|O", "O"):
        raise DataError(f"{path}: the header says Python objects, in a pickle, which smalllm never reads. {advice}")
    if not isinstance(descr, str) or descr not in _NPY_DTYPES:
        kinds = _either(list(dict.fromkeys(_NPY_DTYPES.values())))
        raise DataError(f"{path}: the header says the type is {str(descr)[:60]}; expected {kinds}. {advice}")
    if not isinstance(shape, tuple) or len(shape) != 1 or not isinstance(shape[0], int):
        raise DataError(f"{path}: the header says the shape is {str(shape)[:60]}; expected one dimension. {advice}")


def _sized(file: ForeignFile, size_bytes: int) -> ForeignFile:
    expected_bytes = file.layout.header_bytes + file.n_bytes
    if file.tokens < 1:
        raise DataError(f"{file.path}: the header says {file.tokens} ids; expected at least 1. Remove the file.")
    if size_bytes != expected_bytes:
        raise DataError(
            f"{file.path}: has {size_bytes:,} bytes; its header says {file.tokens:,} ids, which end at byte "
            f"{expected_bytes:,}. The file was cut short, or something was added: copy it again."
        )
    return file


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
