"""Our shape as a Hugging Face `config.json` and back, by the tables of `families.py`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import FAMILIES, Family
from smalllm.recipes.resolve import resolve_shape

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_SUPPORTED = ", ".join(f"{family.name} ({family.hf_class})" for family in FAMILIES)


def write_hf_config(family: Family, config: ModelConfig, *, vocab_size: int, eos_id: int, dtype: str) -> dict[str, Any]:
    """The `config.json` of a model, for transformers 4 and 5 and for llama.cpp's converter.

    Both spellings stand in it where the two versions differ (`rope_theta` and `rope_parameters`, `torch_dtype` and
    `dtype`). `n_ctx` is for llama.cpp, which asks for it. `smalllm.bias` says whether biases that a class always has
    are ours or zeros that stand for none.
    """
    config = resolve_shape(config)
    names = {"torch_dtype": DTYPES[dtype], "dtype": DTYPES[dtype]}
    known: dict[str, Any] = {"architectures": [family.hf_class], "model_type": family.name, **names}
    known |= {key: getattr(config, ours) for key, ours in family.fields.items()}
    known |= {key: values[0] for key, values in family.fixed.items()}
    known |= {"vocab_size": vocab_size, "bos_token_id": eos_id, "eos_token_id": eos_id}
    if family.name == "gpt2":
        known |= {"n_ctx": config.context_length, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    else:
        rope = {"rope_type": "default", "rope_theta": config.rope_theta}
        known |= {"rope_theta": config.rope_theta, "rope_parameters": rope, "attention_dropout": 0.0}
        always = family.name == "starcoder2"  # its biases are always written, as zeros if need be
        known |= dict.fromkeys(family.bias_keys, always or config.bias)
    return {**known, "smalllm": {"bias": config.bias}}


def read_hf_config(found: Mapping[str, Any], *, where: str) -> tuple[Family, ModelConfig]:
    """The family and shape that a `config.json` describes; `bias` is left to who sees the weights.

    Args:
        found: what `config.json` holds, written by transformers 4 or 5.
        where: the file, for messages.

    Raises:
        InteropError: another architecture, or a field with a value that smalllm's model does not have; all of them
            at once.
    """
    family = next((family for family in FAMILIES if family.name == found.get("model_type")), None)
    if family is None:
        named = found.get("architectures") or ["none"]
        raise InteropError(
            f"{where}: model_type is {found.get('model_type')!r} (architecture {named[0]}); "
            f"smalllm imports {_SUPPORTED}"
        )
    wrong = [*_missing(family, found), *_not_fixed(family, found), *_wrong_rope(family, found)]
    if wrong:
        listed = "\n".join(f"  {problem}" for problem in wrong)
        raise InteropError(f"{where}: a {family.hf_class} that smalllm's model cannot hold:\n{listed}")
    values = {ours: found.get(key, family.defaults.get(key)) for key, ours in family.fields.items()}
    shape = ModelConfig(**{**family.shape, **{k: v for k, v in values.items() if v is not None}})
    if shape.d_ff is None:
        shape = replace(shape, d_ff=4 * shape.d_model)
    return family, replace(resolve_shape(shape), rope_theta=float(_rope(found).get("rope_theta", 10_000.0)))


def _missing(family: Family, found: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is missing"
        for key in (*family.fields, "vocab_size")
        if key not in family.defaults and not isinstance(found.get(key), int)
    ]


def _not_fixed(family: Family, found: Mapping[str, Any]) -> list[str]:
    wrong = []
    for key, allowed in family.fixed.items():
        value = found.get(key, allowed[0])
        if key == "sliding_window" and isinstance(value, int) and value >= found.get("max_position_embeddings", 0):
            continue  # a window wider than the context is none
        if value not in allowed:
            wrong.append(f"{key} = {value!r}: must be {' or '.join(map(repr, allowed))}")
    return wrong


def _rope(found: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings, wherever this version of transformers put them."""
    flat = {key: found[key] for key in ("rope_theta", "partial_rotary_factor") if found.get(key) is not None}
    scaling = found.get("rope_scaling") or {}
    return {**flat, **scaling, **(found.get("rope_parameters") or {})}


def _wrong_rope(family: Family, found: Mapping[str, Any]) -> list[str]:
    if family.name == "gpt2":
        return []
    rope = _rope(found)
    kind = rope.get("rope_type", rope.get("type", "default"))
    wrong = []
    if kind != "default":
        wrong.append(f"rope_type = {kind!r}: must be 'default'; scaled rotary positions are not supported")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        wrong.append(f"partial_rotary_factor = {rope['partial_rotary_factor']!r}: must be 1.0")
    return wrong
