"""How a model is divided among processes, and how their gradients become one.

    ddp               each data rank has the whole model; gradients are added up once an update
    fsdp              each data rank keeps a share of every parameter, and the optimizer state of that share; the rest
                      of a block is fetched while the block works (`torch.distributed.fsdp.fully_shard`)
    tensor_parallel   the tensor ranks of a group keep a share of the heads and of the MLP's width of every block, and
                      add up what these give; embeddings, norms and the head are whole on each

Losses come in as shares of the loss of the whole step, so gradients are added up, never averaged. With ddp this is
done in buckets that are always the same: so a run that was restarted adds in the same order, which is what makes it
exact with any number of ranks. `DistributedDataParallel` re-cuts its buckets after the first update.

Source: Rajbhandari et al. 2020 (ZeRO, stage 3); Shoeybi et al. 2019 (Megatron-LM), section 3.
"""

import math
import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smalllm.model.gpt import GPT
from smalllm.sharded import is_sharded, local, whole
from smalllm.training.distributed import Ranks

_BUCKET_BYTES = 25 << 20


def divide_model(model: GPT, ranks: Ranks, *, parallel: str, compile_blocks: bool) -> None:
    """Divide a model in place; every rank comes with the same weights.

    Args:
        model: whole, on the device.
        ranks: arranged.
        parallel: "ddp" or "fsdp".
        compile_blocks: compile each block by itself. What is divided cannot be compiled as a whole.
    """
    if ranks.n_tensor > 1:
        _divide_blocks(model, ranks.mesh["tensor"])
    if compile_blocks and is_divided(ranks, parallel):
        for block in model.blocks:
            block.compile(dynamic=False)
    if parallel == "fsdp" and ranks.n_data > 1:
        from torch.distributed.fsdp import fully_shard

        # The logits are a view, less the padded rows; nobody writes into them.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        for block in model.blocks:
            fully_shard(block, mesh=ranks.mesh["data"])
        fully_shard(model, mesh=ranks.mesh["data"], reshard_after_forward=False)
        for module in (model, *model.blocks):
            cast(Any, module).set_gradient_divide_factor(1.0)
            cast(Any, module).set_force_sum_reduction_for_comms(True)


def is_divided(ranks: Ranks, parallel: str) -> bool:
    """Whether no rank holds the whole model."""
    return ranks.n_tensor > 1 or (parallel == "fsdp" and ranks.n_data > 1)


def whole_model(model: GPT, *, device: str) -> GPT:
    """A model that works on one rank alone: `model` itself, or where it is divided, a copy of all of it.

    All ranks must ask at the same time. The copy is for evaluation and samples, and is dropped after.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    with torch.device(device):
        copy = GPT(model.config, vocab_size=model.vocab_size)
    with torch.no_grad():
        for mine, part in zip(copy.parameters(), model.parameters(), strict=True):
            mine.copy_(whole(part))
    return copy


def whole_tensors(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """All of each tensor, on the CPU, for a checkpoint; all ranks must ask, those that do not `keep` get nothing."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            found[name] = value.cpu() if is_sharded(tensor) else value
    return found


def begin_backward(model: nn.Module, *, is_last: bool) -> None:
    """Before each micro-batch: fsdp adds up gradients among ranks with the last one of an update only."""
    if hasattr(model, "set_requires_gradient_sync"):
        cast(Any, model).set_requires_gradient_sync(is_last)


def add_gradients(model: nn.Module, ranks: Ranks) -> None:
    """After the last micro-batch: add up over ranks what is not added up yet."""
    if ranks.n == 1:
        return
    if ranks.n_tensor > 1:
        # Each tensor rank normalises its own heads with weights that all of them have.
        per_head = [p for name, p in model.named_parameters() if "q_norm" in name or "k_norm" in name]
        _add_up(_gradients(per_head), ranks.mesh["tensor"].get_group())
        for parameter in filter(is_sharded, model.parameters()):
            sharded = cast(Any, parameter)
            if sharded.grad is not None and sharded.grad.placements != sharded.placements:
                sharded.grad = sharded.grad.redistribute(placements=sharded.placements)
    if not hasattr(model, "set_requires_gradient_sync"):
        _add_up(_gradients(list(model.parameters())), ranks.mesh["data"].get_group())


def clip_gradients(model: nn.Module, clip_norm: float, ranks: Ranks, *, scale: float = 1.0) -> float:
    """Scale all gradients down to `clip_norm` where their norm is larger; 0: never. Returns the norm before.

    Args:
        model: with gradients that are `scale` times too large; after it they are not.
        clip_norm: the largest norm.
        ranks: arranged.
        scale: of the loss that they come from.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    if scale != 1.0:
        torch._foreach_mul_(_gradients(parameters), 1.0 / scale)
    if not any(is_sharded(p) for p in parameters):
        return float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf))
    gradients = _gradients(parameters)
    squares = torch.stack(torch._foreach_norm(gradients)).double() ** 2
    copies = torch.tensor([_n_copies(p, ranks) for p in parameters], dtype=torch.float64, device=squares.device)
    total = (squares / copies).sum()
    dist.all_reduce(total)
    norm = float(total.sqrt())
    if clip_norm and norm > clip_norm:
        torch._foreach_mul_(gradients, clip_norm / (norm + 1e-6))
    return norm


def _n_copies(parameter: Tensor, ranks: Ranks) -> int:
    """How many ranks hold the same part of it."""
    if not is_sharded(parameter):
        return ranks.n
    sharded = cast(Any, parameter)
    sizes = (sharded.device_mesh.size(i) for i, at in enumerate(sharded.placements) if not at.is_replicate())
    return ranks.n // math.prod(sizes)


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [local(p.grad) for p in parameters if p.grad is not None]


def _add_up(gradients: list[Tensor], group: Any) -> None:
    """Replace each tensor by its sum over the ranks of a group, a bucket at a time."""
    if dist.get_world_size(group) == 1:
        return
    bucket: list[Tensor] = []
    for number, gradient in enumerate(gradients):
        bucket.append(gradient)
        if number + 1 < len(gradients) and sum(g.nbytes for g in bucket) < _BUCKET_BYTES:
            continue
        flat = torch.cat([g.flatten() for g in bucket])
        dist.all_reduce(flat, group=group)
        for into, values in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            into.copy_(values.view_as(into))
        bucket = []


def _divide_blocks(model: GPT, mesh: Any) -> None:
    """Heads and the width of the MLP go to the tensor ranks in equal parts."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        parallelize_module,
    )

    def enters(n: int) -> PrepareModuleInput:
        layouts = (Replicate(), *(None for _ in range(n - 1)))
        return PrepareModuleInput(input_layouts=layouts, desired_input_layouts=layouts, use_local_output=False)

    for block in model.blocks:
        attention = cast(Any, block).attention
        plan = {
            "attention": enters(5),
            **{f"attention.{name}": ColwiseParallel() for name in "qkv"},
            "attention.out": RowwiseParallel(),
            "mlp": enters(2),
            "mlp.up": ColwiseParallel(),
            "mlp.down": RowwiseParallel(),
        }
        if cast(Any, block).mlp.gate is not None:
            plan["mlp.gate"] = ColwiseParallel()
        parallelize_module(block, mesh, plan)
        attention.n_heads //= mesh.size()
        attention.n_kv_heads //= mesh.size()
