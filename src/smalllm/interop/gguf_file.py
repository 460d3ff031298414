"""A GGUF file, llama.cpp's format: shape, tokenizer and weights in one. Written here, read back by `gguf_read.py`.

Source: ggml `docs/gguf.md`; gguf 0.19 `constants.py`; llama.cpp `src/models/{gpt2,starcoder2,llama,qwen3}.cpp`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import Family, family_of
from smalllm.interop.gguf_encode import find_misread
from smalllm.interop.gguf_tokenizer import GGUFTokenizer, gguf_tokenizer
from smalllm.interop.tensors import outgoing
from smalllm.recipes.resolve import resolve_shape
from smalllm.tokenizers.text_tokenizer import TextTokenizer

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
BLOCK = 32
"""Weights of a row that share a scale in Q8_0."""

BIAS_KEY = "smalllm.bias"
"""Whether biases are the model's own, or zeros that stand for none; llama.cpp passes over it."""

COUNTS = {
    "context_length": "context_length",
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "d_ff": "feed_forward_length",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "d_head": "attention.key_length",
}
"""Our field -> the key after "ARCHITECTURE."."""


def write_gguf(
    path: Path,
    config: ModelConfig,
    parameters: Mapping[str, Tensor],
    tokenizer: TextTokenizer,
    *,
    dtype: str,
    name: str,
    notice: Callable[[str], None],
) -> None:
    """Write a model for llama.cpp.

    Vectors and the learned positions stay F32 in every dtype, as llama.cpp wants them. With q8_0, a matrix whose rows
    are no multiple of 32 is F16.

    Args:
        path: where to; replaced if it exists.
        config: the model's shape.
        parameters: its parameters by name, on the CPU.
        tokenizer: its tokenizer.
        dtype: f32, f16, bf16 or q8_0.
        name: of the model, for programs to show.
        notice: told what is not as asked for.

    Raises:
        InteropError: gguf is not installed, llama.cpp has no place for this model or tokenizer, a weight is too large
            for the dtype, or the file cannot be written.
    """
    gguf = import_gguf()
    config = resolve_shape(config)
    family = family_of(config)
    _check_heads(family, config)
    lists = gguf_tokenizer(tokenizer)
    tensors = outgoing(family, config, parameters, side="gguf", vocab_size=tokenizer.vocab_size)
    _drop_output_bias(family, tensors)
    types = {key: type_of(key, tensor, dtype) for key, tensor in tensors.items()}
    _tell(lists, types, tensors, dtype, notice)
    writer = gguf.GGUFWriter(path, family.name)
    try:
        _add_facts(writer, gguf, family, config, dtype=dtype, name=name, n_tokens=len(lists.tokens))
        _add_tokenizer(writer, lists)
        _write_tensors(writer, gguf, tensors, types)
    except OSError as error:
        raise InteropError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error
    finally:
        writer.close()


def import_gguf() -> Any:
    """The gguf package.

    Raises:
        InteropError: it is not installed; the message has the line that installs it.
    """
    try:
        import gguf
    except ImportError as error:
        raise InteropError(
            "GGUF files are written with gguf, which is not installed: pip install 'smalllm[gguf]'"
        ) from (error)
    return gguf


def _check_heads(family: Family, config: ModelConfig) -> None:
    assert config.d_head is not None
    if family.name == "starcoder2" and config.d_head * config.n_heads != config.d_model:
        raise InteropError(
            f"model.d_head = {config.d_head}: in llama.cpp's starcoder2 heads have d_model / n_heads = "
            f"{config.d_model / config.n_heads:g} dimensions; export with --format hf"
        )


def _drop_output_bias(family: Family, tensors: dict[str, Tensor]) -> None:
    """llama.cpp's qwen3 has biases for queries, keys and values alone."""
    if family.name != "qwen3":
        return
    for key in [key for key in tensors if key.endswith("attn_output.bias")]:
        if tensors.pop(key).any():
            raise InteropError(
                f"model.bias = true: llama.cpp's qwen3 has no {key}, and this model's is not zero; export with "
                "--format hf"
            )


def type_of(name: str, tensor: Tensor, dtype: str) -> str:
    """How a tensor is written in a file of `dtype`; its name may be ours or GGUF's."""
    if tensor.ndim == 1 or name.startswith("position"):
        return "f32"
    return "f16" if dtype == "q8_0" and tensor.shape[1] % BLOCK else dtype


def _tell(
    lists: GGUFTokenizer,
    types: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    dtype: str,
    notice: Callable[[str], None],
) -> None:
    narrow = [key for key, type in types.items() if dtype == "q8_0" and type == "f16"]
    if narrow:
        notice(
            f"{len(narrow)} of {len(types)} tensors are F16, not Q8_0, whose rows are multiples of {BLOCK}; rows of "
            f"{narrow[0]} have {tensors[narrow[0]].shape[1]} weights"
        )
    if misread := find_misread(lists):
        notice(f"llama.cpp reads the text {misread[0]} as the token of that name; smalllm reads it as text")


def _add_facts(
    writer: Any, gguf: Any, family: Family, config: ModelConfig, *, dtype: str, name: str, n_tokens: int
) -> None:
    writer.add_type("model")
    # llama.cpp looks for Phi-3 in the name and then wants its tokens.
    writer.add_name(re.sub("phi-?3", "phi 3", name, flags=re.IGNORECASE))
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for field, key in COUNTS.items():
        writer.add_uint32(f"{family.name}.{key}", getattr(config, field))
    writer.add_value_length(config.d_head)
    writer.add_vocab_size(n_tokens)
    if config.norm == "rmsnorm":
        writer.add_layer_norm_rms_eps(config.norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_eps)
    if config.position == "rope":
        writer.add_rope_dimension_count(config.d_head)
        writer.add_rope_freq_base(config.rope_theta)
    writer.add_bool(BIAS_KEY, config.bias)


def _add_tokenizer(writer: Any, lists: GGUFTokenizer) -> None:
    writer.add_tokenizer_model(lists.model)
    writer.add_tokenizer_pre(lists.pre)
    writer.add_token_list(lists.tokens)
    writer.add_token_types(lists.types)
    writer.add_token_scores(lists.scores)
    writer.add_token_merges(lists.merges)
    writer.add_bos_token_id(lists.eos_id)
    writer.add_eos_token_id(lists.eos_id)
    if lists.unk_id is not None:
        writer.add_unk_token_id(lists.unk_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(lists.add_space_prefix)


def _write_tensors(writer: Any, gguf: Any, tensors: dict[str, Tensor], types: Mapping[str, str]) -> None:
    """One at a time, so that only one is held in two precisions."""
    for key, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType[types[key].upper()]
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = tensor.numel() // per_block * block_bytes
        writer.add_tensor_info(key, tensor.shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for key in list(tensors):
        kind = gguf.GGMLQuantizationType[types[key].upper()]
        values = tensors.pop(key).float().numpy()
        with np.errstate(over="ignore"):
            rounded = gguf.quantize(values, kind)
        if types[key] == "f16" and not np.isfinite(rounded).all():
            raise InteropError(
                f"{key} has a weight of {np.abs(values).max():.3g}, and f16 ends at 65504; use --dtype bf16 or f32"
            )
        writer.write_tensor_data(rounded)
