"""Our parameters as another program's tensors and back, by the tables of `families.py`.

Only names, order and layout change, never a value: what goes out and comes in again is the same to the last bit.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import Family, Module
from smalllm.model.gpt import GPT

Side = Literal["hf", "gguf"]
_VOCABULARY = ("token_embedding", "lm_head")  # their rows past the vocabulary are padding of ours


def outgoing(
    family: Family, config: ModelConfig, parameters: Mapping[str, Tensor], *, side: Side, vocab_size: int
) -> dict[str, Tensor]:
    """Our parameters under their names and in their layout.

    Args:
        family: of the model, from `family_of`.
        config: its resolved shape.
        parameters: ours by name, a tied head left out.
        side: whose names and layout.
        vocab_size: real token ids; the rows that pad the vocabulary stay here.

    Raises:
        InteropError: a bias that is not zero has no place in their class.
    """
    theirs: dict[str, Tensor] = {}
    for module, layer in _modules(family, config):
        ours = [name.replace("{i}", str(layer)) for name in module.ours]
        weight = torch.cat([parameters[f"{name}.weight"].detach() for name in ours])
        if ours[0] in _VOCABULARY:
            weight = weight[:vocab_size]
        biases = [parameters.get(f"{name}.bias") for name in ours]
        bias = _outgoing_bias(family, module, config, biases, weight)
        for kind, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:
                name = f"{getattr(module, side).replace('{i}', str(layer))}.{kind}"
                theirs[name] = _relaid(tensor, family, module, config, side=side).contiguous()
    return theirs


def incoming(
    family: Family, config: ModelConfig, tensors: Mapping[str, Tensor], *, side: Side, vocab_size: int, where: str
) -> dict[str, Tensor]:
    """Their tensors as the parameters of `GPT(config, vocab_size=vocab_size)`, in FP32.

    Rows past `vocab_size` are dropped, and rows that pad the vocabulary are zero. A bias that they lack is zero.

    Args:
        family: of the model.
        config: its resolved shape.
        tensors: theirs by name, without a tied head.
        side: whose names and layout.
        vocab_size: ids of the tokenizer.
        where: the file or folder, for messages.

    Raises:
        InteropError: a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in GPT(config, vocab_size=vocab_size).named_parameters()}
    left, parameters = dict(tensors), {}
    for module, layer in _modules(family, config):
        ours = [name.replace("{i}", str(layer)) for name in module.ours]
        for kind in ("weight", "bias"):
            name = f"{getattr(module, side).replace('{i}', str(layer))}.{kind}"
            wanted = [shapes[f"{our}.{kind}"] for our in ours if f"{our}.{kind}" in shapes]
            found = left.pop(name, None)
            if found is None and wanted and kind == "weight":
                raise InteropError(f"{where}: {name} is missing; the checkpoint is incomplete: get all its files")
            if not wanted:
                if found is not None and found.any():
                    raise InteropError(f"{where}: {name} is not zero, and this model has no place for it")
                continue
            if found is None:
                found = torch.zeros(sum(shape[0] for shape in wanted))
            rows = _unlaid(found.float(), family, module, config, side=side)
            if ours[0] in _VOCABULARY:
                rows = _padded(rows, name, vocab_size=vocab_size, n_rows=wanted[0][0], where=where)
            expected = (sum(shape[0] for shape in wanted), *wanted[0][1:])
            if tuple(rows.shape) != expected:
                raise InteropError(
                    f"{where}: {name} has shape {tuple(found.shape)}; the configuration wants "
                    f"{tuple(reversed(expected)) if rows.shape != found.shape else expected}; "
                    "weights and configuration are not of one model"
                )
            for our, part in zip(ours, rows.split([shape[0] for shape in wanted]), strict=True):
                parameters[f"{our}.{kind}"] = part.contiguous()
    if left:
        shown = ", ".join(sorted(left)[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        raise InteropError(f"{where}: {family.hf_class} has no {shown}; the checkpoint holds another kind of model")
    return parameters


def bias_tensors(family: Family, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of their Hugging Face tensors that are biases of linear layers or norms."""
    names = (module.hf.replace("{i}", str(layer)) + ".bias" for module, layer in _modules(family, config))
    return {name: tensors[name] for name in names if name in tensors}


def _modules(family: Family, config: ModelConfig) -> Iterator[tuple[Module, int]]:
    for module in family.modules:
        if module.ours == ("lm_head",) and config.tie_embeddings:
            continue
        for layer in range(config.n_layers if "{i}" in module.hf else 1):
            yield module, layer


def _outgoing_bias(
    family: Family, module: Module, config: ModelConfig, biases: list[Tensor | None], weight: Tensor
) -> Tensor | None:
    found = [bias.detach() for bias in biases if bias is not None]
    if module.bias == "never":
        if any(bias.any() for bias in found):
            raise InteropError(
                f"model.bias = true: {family.hf_class} has no bias in {module.hf.rsplit('.', 1)[-1]}, and this "
                "model's is not zero there; train with --model.bias false to export to it"
            )
        return None
    if module.bias == "optional" and not config.bias:
        return None
    return torch.cat(found) if found else torch.zeros(weight.shape[0])


def _relaid(tensor: Tensor, family: Family, module: Module, config: ModelConfig, *, side: Side) -> Tensor:
    """From our layout to theirs."""
    if side == "hf":
        return tensor.T if module.is_transposed and tensor.ndim == 2 else tensor
    if family.has_interleaved_gguf and module.n_heads:
        n_heads = getattr(config, module.n_heads)
        return tensor.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return tensor


def _unlaid(tensor: Tensor, family: Family, module: Module, config: ModelConfig, *, side: Side) -> Tensor:
    """From their layout to ours."""
    if side == "hf":
        return tensor.T if module.is_transposed and tensor.ndim == 2 else tensor
    if family.has_interleaved_gguf and module.n_heads:
        n_heads = getattr(config, module.n_heads)
        return tensor.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)
    return tensor


def _padded(rows: Tensor, name: str, *, vocab_size: int, n_rows: int, where: str) -> Tensor:
    if rows.shape[0] < vocab_size:
        raise InteropError(
            f"{where}: {name} has {rows.shape[0]:,} rows and the tokenizer {vocab_size:,} ids; they are not of one "
            "model: get the tokenizer that belongs to these weights"
        )
    padded = rows.new_zeros(n_rows, rows.shape[1])
    padded[:vocab_size] = rows[:vocab_size]
    return padded
