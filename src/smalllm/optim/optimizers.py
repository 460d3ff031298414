"""Which parameters each optimizer gets, and the optimizers' state as named tensors.

AdamW decays matrices; norms, biases and (where the recipe says so) embeddings are left alone. With Muon, the
matrices inside the blocks go to Muon (`muon.py`) and everything else to AdamW.
Source: Loshchilov and Hutter 2019 (AdamW); Jordan et al. 2024 (Muon).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from smalllm import runtime
from smalllm.config import OptimConfig
from smalllm.errors import CheckpointError
from smalllm.optim.muon import Muon
from smalllm.sharded import laid_out, mesh_of


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The optimizers of a run, each parameter in exactly one group.

    Every group carries `peak_lr`, the rate that the schedule scales, and `names`, its parameters' names.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "decayed": [], "plain": []}
    for name, parameter in model.named_parameters():
        groups[_group(name, parameter, config)].append((name, parameter))
    adamw = AdamW(
        [
            *_param_groups(groups["decayed"], lr=config.lr, weight_decay=config.weight_decay),
            *_param_groups(groups["plain"], lr=config.lr, weight_decay=0.0),
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
    if not groups["matrix"]:
        return [adamw]
    matrices = _param_groups(groups["matrix"], lr=config.muon_lr, weight_decay=config.weight_decay)
    dtype = torch.bfloat16 if runtime.has_bf16(groups["matrix"][0][1].device.type) else torch.float32
    return [adamw, Muon(matrices, lr=config.muon_lr, momentum=0.95, dtype=dtype)]


def set_lr(optimizers: list[Optimizer], scale: float) -> None:
    """Set every group's rate to `scale` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale


def optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """All optimizer state as `parameter name / state name` -> tensor, for a checkpoint."""
    tensors = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                for key, value in optimizer.state[parameter].items():
                    tensors[f"{name}/{key}"] = value
    return tensors


def load_optimizer_tensors(optimizers: list[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, into freshly built optimizers of the same model.

    Raises:
        CheckpointError: a tensor belongs to no parameter.
    """
    owners = {
        name: (optimizer, parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in owners:
            raise CheckpointError(
                f"optimizer state {full_name!r} belongs to no parameter of this model; "
                "the checkpoint was written with other settings"
            )
        optimizer, parameter = owners[name]
        state = optimizer.state[parameter]  # fused AdamW has its step counters where the parameter is
        state[key] = laid_out(value, parameter) if value.ndim else value.to(parameter.device, copy=True)


def _group(name: str, parameter: nn.Parameter, config: OptimConfig) -> str:
    is_embedding = "embedding" in name
    if parameter.ndim < 2:
        return "plain"
    if config.kind == "muon":
        return "matrix" if name.startswith("blocks.") else "plain"
    return "plain" if is_embedding and not config.decay_embeddings else "decayed"


def _param_groups(named: list[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float) -> list[dict[str, object]]:
    """One group; several where some are divided otherwise than others, for which there is no common kernel."""
    alike: dict[object, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        alike.setdefault(mesh_of(parameter), []).append((name, parameter))
    return [_param_group(each, lr=lr, weight_decay=weight_decay) for each in alike.values() or [[]]]


def _param_group(named: list[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float) -> dict[str, object]:
    return {
        "params": [parameter for _, parameter in named],
        "names": [name for name, _ in named],
        "lr": lr,
        "peak_lr": lr,
        "weight_decay": weight_decay,
    }
