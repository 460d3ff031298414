"""Small pictures of many numbers: PNG files with one byte per number, written without a library."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_INK = (0x00, 0x72, 0xB2)  # the plots' blue


def png_of(values: NDArray[np.uint8]) -> bytes:
    """A PNG of one pixel per value: 0 is transparent, 255 is ink, so that it suits any background.

    Args:
        values: [rows columns].
    """
    rows, columns = values.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits, an index into the palette
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), values], axis=1)  # each line begins with its filter: none
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"IHDR", header),
            (b"PLTE", bytes(_INK) * 256),
            (b"tRNS", bytes(range(256))),
            (b"IDAT", zlib.compress(lines.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def data_url(png: bytes) -> str:
    """A PNG as the address of an image that is in the page itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
