"""A Hugging Face checkpoint folder: `config.json`, weights in safetensors, the tokenizer's files.

Weights are read from `model.safetensors` or from the shards that `model.safetensors.index.json` lists, in any
precision. Pickled weights (`pytorch_model.bin`) are refused: unpickling runs code that the file brings along.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import Family, family_of
from smalllm.interop.hf_config import read_hf_config, write_hf_config
from smalllm.interop.tensors import bias_tensors, incoming, outgoing

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Masks and angles that older versions of transformers saved with the weights.
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class HFModel:
    """A checkpoint folder, read.

    Attributes:
        family: which of the four it is.
        config: its shape.
        parameters: of `GPT(config, vocab_size=vocab_size)`, FP32.
        n_rows: rows of its embedding, `vocab_size` or more.
    """

    family: Family
    config: ModelConfig
    parameters: dict[str, Tensor]
    n_rows: int


def write_hf_model(
    directory: Path,
    config: ModelConfig,
    parameters: Mapping[str, Tensor],
    *,
    vocab_size: int,
    eos_id: int,
    dtype: str = "f32",
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` into a directory that exists.

    Args:
        directory: where to.
        config: the model's shape.
        parameters: its parameters by name.
        vocab_size: real token ids.
        eos_id: the token that ends a document; it also starts one.
        dtype: f32, f16 or bf16.

    Raises:
        InteropError: no class holds this model, or the files cannot be written.
    """
    family = family_of(config)
    tensors = outgoing(family, config, parameters, side="hf", vocab_size=vocab_size)
    tensors = {name: tensor.to(TORCH_DTYPES[dtype]) for name, tensor in tensors.items()}
    generation = {"bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": eos_id}
    try:
        safetensors.torch.save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        (directory / WEIGHTS).chmod(0o644)  # it comes readable by its owner only
        _write_json(
            directory / "config.json",
            write_hf_config(family, config, vocab_size=vocab_size, eos_id=eos_id, dtype=dtype),
        )
        _write_json(directory / "generation_config.json", generation)
    except (OSError, safetensors.SafetensorError) as error:
        raise InteropError(f"{directory}: cannot be written ({error}); free some space or choose another --out") from (
            error
        )


def read_hf_model(directory: Path, *, vocab_size: int) -> HFModel:
    """Read a checkpoint folder as our parameters.

    Args:
        directory: with `config.json` and safetensors.
        vocab_size: ids of its tokenizer; unnamed rows of the matrices past them are dropped.

    Raises:
        InteropError: an unsupported model, files missing, damaged or not of one model, or pickled weights.
    """
    found = read_json_file(directory / "config.json")
    family, config = read_hf_config(found, where=str(directory / "config.json"))
    tensors = _named(family, _read_weights(directory))
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)  # a copy of the embedding
    config = replace(config, bias=_has_bias(family, config, tensors, found))
    parameters = incoming(family, config, tensors, side="hf", vocab_size=vocab_size, where=str(directory))
    return HFModel(family, config, parameters, n_rows=tensors[f"{family.modules[0].hf}.weight"].shape[0])


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint folder.

    Raises:
        InteropError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InteropError(
            f"{path}: {error.strerror}; expected a Hugging Face checkpoint folder, with config.json, safetensors and "
            "a tokenizer"
        ) from error
    except ValueError as error:
        raise InteropError(f"{path}: not JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise InteropError(f"{path}: not a JSON object; get the file again")
    return value


def _read_weights(directory: Path) -> dict[str, Tensor]:
    if (directory / INDEX).is_file():
        weight_map = read_json_file(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InteropError(f"{directory / INDEX}: has no weight_map; get the file again")
        files = sorted({str(name) for name in weight_map.values()})
    elif (directory / WEIGHTS).is_file():
        weight_map, files = None, [WEIGHTS]
    else:
        raise InteropError(_no_weights(directory))
    tensors: dict[str, Tensor] = {}
    for name in files:
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise InteropError(f"{file}: missing, and {INDEX} lists it; get all files of the checkpoint")
        try:
            tensors |= safetensors.torch.load_file(file)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise InteropError(f"{file}: truncated or damaged ({error}); get the file again") from error
    lacking = sorted(set(weight_map or ()) - set(tensors))
    if lacking:
        raise InteropError(f"{directory}: {INDEX} lists {lacking[0]}, which no file holds; get all files again")
    return tensors


def conversion(source: str) -> str:
    """What to do about a checkpoint, on this machine or on the Hub, whose weights are pickled."""
    return (
        "If you trust it, convert it once with transformers: "
        f"AutoModelForCausalLM.from_pretrained({source!r}).save_pretrained('converted')"
    )


def _no_weights(directory: Path) -> str:
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickled:
        return (
            f"{directory}: the weights are in {pickled[0]}, a pickle, which smalllm never reads: reading one runs "
            f"the code in it. {conversion(str(directory))}"
        )
    return f"{directory}: no {WEIGHTS} and no {INDEX}; expected the weights of a Hugging Face checkpoint"


def _named(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without saved buffers, and with the prefix that checkpoints of the bare model lack."""
    kept = {name: tensor for name, tensor in tensors.items() if not _BUFFERS.search(name)}
    prefix = family.modules[0].hf.split(".")[0] + "."
    if any(name.startswith(prefix) for name in kept):
        return kept
    return {name if name == "lm_head.weight" else prefix + name: tensor for name, tensor in kept.items()}


def _has_bias(family: Family, config: ModelConfig, tensors: Mapping[str, Tensor], found: Mapping[str, Any]) -> bool:
    """Whether ours has biases: where theirs do, unless all are zeros that our export put there for none."""
    biases = bias_tensors(family, config, tensors)
    if any(bool(bias.any()) for bias in biases.values()):
        return True
    ours = found.get("smalllm")
    if isinstance(ours, dict) and ours.get("bias") is False:
        return False
    norms = {module.hf.rsplit(".", 1)[-1] for module in family.modules if "norm" in module.ours[0]}
    return any(name.split(".")[-2] not in norms for name in biases)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
