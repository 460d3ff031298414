"""A GGUF file that `gguf_file.py` wrote, read back so that it can be compared.

Not here: files of other programs; not all quantisations can be read, and their tokenizers lack what rebuilds ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import FAMILIES, Family
from smalllm.interop.gguf_file import BIAS_KEY, COUNTS, import_gguf
from smalllm.interop.gguf_tokenizer import GGUFTokenizer
from smalllm.interop.tensors import incoming
from smalllm.recipes.resolve import resolve_shape


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
        InteropError: gguf is not installed, or the file is damaged or of another kind of model.
    """
    gguf = import_gguf()
    try:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        lists = _read_tokenizer(fields)
        tensors = {t.name: torch.from_numpy(_dequantised(gguf, t)) for t in reader.tensors}
        family, config = _read_config(fields, tensors)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InteropError(f"{path}: not a GGUF file of smalllm's, or a damaged one ({error!r})") from error
    vocab_size = len(lists.tokens)
    return GGUFModel(
        config, incoming(family, config, tensors, side="gguf", vocab_size=vocab_size, where=str(path)), lists
    )


def _dequantised(gguf: Any, tensor: Any) -> NDArray[np.float32]:
    return np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)  # not a view of the file


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
        bias=bool(fields[BIAS_KEY]),
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
        add_space_prefix=bool(found["add_space_prefix"]),
    )
