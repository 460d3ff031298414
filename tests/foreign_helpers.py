"""Writes files of token ids as other programs do, from the descriptions of their layouts: with `struct` alone, and
nothing of smalllm's or NumPy's.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

CODES = {"uint16": "H", "uint32": "I", "int32": "i", "int64": "q", "uint8": "B"}
NAMES = {"nanogpt": "{}.bin", "llmc": "fineweb_{}_000001.bin", "npy": "edufineweb_{}_000001.npy"}
"""How each program calls the file of a split."""


def nanogpt(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}H", *ids)


def llmc(
    ids: Sequence[int], *, magic: int = 20240520, version: int = 1, n: int | None = None, dtype: str = "uint16"
) -> bytes:
    header = struct.pack("<256i", magic, version, len(ids) if n is None else n, *[0] * 253)
    return header + struct.pack(f"<{len(ids)}{CODES[dtype]}", *ids)


def llama(ids: Sequence[int]) -> bytes:
    return llmc(ids, magic=20240801, version=7, dtype="uint32")


def npy(
    ids: Sequence[int], dtype: str = "uint16", *, order: str = "<", shape: str | None = None, version: int = 1
) -> bytes:
    code = {"uint16": "u2", "uint32": "u4", "int32": "i4", "int64": "i8", "uint8": "u1"}[dtype]
    shape = f"({len(ids)},)" if shape is None else shape
    return npy_header(
        f"{{'descr': '{order}{code}', 'fortran_order': False, 'shape': {shape}, }}", version
    ) + struct.pack(f"{order}{len(ids)}{CODES[dtype]}", *ids)


def npy_header(text: str, version: int = 1) -> bytes:
    length = 2 if version == 1 else 4
    start = 6 + 2 + length
    padded = text + " " * (-(start + len(text) + 1) % 64) + "\n"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(padded)) + padded.encode()
    )


def write_shards(folder: Path, kind: str, **splits: Sequence[int]) -> Path:
    """One file for each split, called and laid out as by the program of that kind."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = {"nanogpt": nanogpt, "llmc": llmc, "npy": npy}[kind]
    for split, ids in splits.items():
        (folder / NAMES[kind].format(split)).write_bytes(writer(ids))
    return folder
