"""A GGUF file that `gguf_file.py` wrote, read back so that it can be compared.

Read from the format's description and not with the package that wrote it, so that one mistake is not made twice.
Not here: files of other programs, with their quantisations, and with tokenizers that lack what rebuilds ours.

Source: ggml `docs/gguf.md`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import FAMILIES, Family
from smalllm.interop.gguf_file import BIAS_KEY, BLOCK, COUNTS
from smalllm.interop.gguf_tokenizer import GGUFTokenizer
from smalllm.interop.tensors import incoming
from smalllm.recipes.resolve import resolve_shape

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_F32, _F16, _Q8_0, _BF16 = 0, 1, 8, 30
_ALIGNMENT = 32  # bytes


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A GGUF file, read.

    Attributes:
        config: the model's shape.
        parameters: of `GPT(config, vocab_size=...)`, FP32, dequantised.
        tokenizer: its lists.
    """

    config: ModelConfig
    parameters: dict[str, Tensor]
    tokenizer: GGUFTokenizer


def read_gguf(path: Path) -> GGUFModel:
    """Read a file that `write_gguf` wrote.

    Raises:
        InteropError: the file is damaged, or of another kind of model.
    """
    try:
        fields, tensors = _parse(path.read_bytes())
        lists = _read_tokenizer(fields)
        family, config = _read_config(fields, tensors)
    except (OSError, ValueError, LookupError, StopIteration, struct.error) as error:
        raise InteropError(f"{path}: not a GGUF file of smalllm's, or a damaged one ({error!r})") from error
    vocab_size = len(lists.tokens)
    return GGUFModel(
        config, incoming(family, config, tensors, side="gguf", vocab_size=vocab_size, where=str(path)), lists
    )


class _Cursor:
    """A place in a file's bytes that moves on as they are read; little-endian."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def number(self, format: str) -> Any:
        """One number in `struct`'s format."""
        (value,) = struct.unpack_from("<" + format, self.content, self.position)
        self.position += struct.calcsize("<" + format)
        return value

    def string(self) -> str:
        """Its length, and UTF-8."""
        return self.strings(1)[0]

    def strings(self, n: int) -> list[str]:
        """Many."""
        found = []
        for _ in range(n):
            (size,) = struct.unpack_from("<Q", self.content, self.position)
            start = self.position + 8
            self.position = start + size
            if self.position > len(self.content):
                raise ValueError("a string goes past the end")
            found.append(self.content[start : self.position].decode("utf-8"))
        return found

    def value(self, kind: int) -> Any:
        """A number, a string or a list of such."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        kind, n = self.number("I"), self.number("Q")
        if kind == _STRING:
            return self.strings(n)
        found = np.frombuffer(self.content, "<" + _NUMBERS[kind], n, self.position)
        self.position += found.nbytes
        return found.tolist()


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The keys with their values, and the tensors by name."""
    cursor = _Cursor(content)
    if (content[:4], len(content) > 8 and struct.unpack_from("<I", content, 4)[0]) != (b"GGUF", 3):
        raise ValueError("it does not start as GGUF version 3")
    cursor.position = 8
    n_tensors, n_fields = cursor.number("Q"), cursor.number("Q")
    fields = {cursor.string(): cursor.value(cursor.number("I")) for _ in range(n_fields)}
    infos = []
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.number("I")
        shape = [cursor.number("Q") for _ in range(n_dims)][::-1]
        infos.append((name, shape, cursor.number("I"), cursor.number("Q")))
    start = -(-cursor.position // _ALIGNMENT) * _ALIGNMENT
    return fields, {name: _dequantised(content, kind, shape, start + offset) for name, shape, kind, offset in infos}


def _dequantised(content: bytes, kind: int, shape: list[int], offset: int) -> Tensor:
    n = int(np.prod(shape))
    if kind == _Q8_0:  # blocks of an FP16 scale and 32 bytes
        blocks = np.frombuffer(content, np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)]), n // BLOCK, offset)
        values = blocks["values"] * blocks["scale"].astype(np.float32)[:, None]
    elif kind == _BF16:  # the upper half of FP32
        values = (np.frombuffer(content, "<u2", n, offset).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(content, {_F32: "<f4", _F16: "<f2"}[kind], n, offset).astype(np.float32)
    return torch.from_numpy(values.reshape(shape))


def _read_config(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Family, ModelConfig]:
    arch = fields["general.architecture"]
    family = next(family for family in FAMILIES if family.name == arch)
    counts: dict[str, Any] = {field: int(fields[f"{arch}.{key}"]) for field, key in COUNTS.items()}
    if counts["d_head"] != fields[f"{arch}.attention.value_length"]:
        raise ValueError("keys and values have different lengths")
    if family.shape["position"] == "rope" and fields[f"{arch}.rope.dimension_count"] != counts["d_head"]:
        raise ValueError("only some dimensions of a head are rotated")
    eps = "layer_norm_rms_epsilon" if family.shape["norm"] == "rmsnorm" else "layer_norm_epsilon"
    config = ModelConfig(
        **family.shape,
        **counts,
        norm_eps=_shortest(fields[f"{arch}.attention.{eps}"]),
        rope_theta=_shortest(fields.get(f"{arch}.rope.freq_base", 10_000.0)),
        tie_embeddings="output.weight" not in tensors,
        bias=fields[BIAS_KEY],
    )
    return family, resolve_shape(config)


def _shortest(value: float) -> float:
    """The shortest number that FP32 rounds to this one: what was meant by it."""
    return float(str(np.float32(value)))


def _read_tokenizer(fields: Mapping[str, Any]) -> GGUFTokenizer:
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    return GGUFTokenizer(
        model=found["model"],
        pre=found["pre"],
        tokens=tuple(found["tokens"]),
        types=tuple(found["token_type"]),
        scores=tuple(found.get("scores", ())),
        merges=tuple(found.get("merges", ())),
        eos_id=found["eos_token_id"],
        unk_id=found.get("unknown_token_id"),
        add_space_prefix=found["add_space_prefix"],
    )
