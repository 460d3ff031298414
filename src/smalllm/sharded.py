"""Tensors of which each process holds a part: the part here, the whole, and the part of a whole one.

PyTorch calls them `DTensor`. Everything else is written for both kinds through these functions, and without them
nothing here is imported: a plain tensor is its own part and its own whole.
"""

from typing import Any, cast

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether other processes hold parts or copies of it."""
    return hasattr(tensor, "placements")


def mesh_of(tensor: Tensor) -> Any:
    """The processes that share it; None for a plain tensor."""
    return getattr(tensor, "device_mesh", None)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it; shares its memory."""
    return cast(Any, tensor.detach()).to_local() if is_sharded(tensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """All of it, to be read only. Of a sharded tensor all its processes must ask at the same time."""
    if not is_sharded(tensor):
        return tensor.detach()
    from torch.distributed.tensor import Replicate

    sharded = cast(Any, tensor.detach())
    placements = list(sharded.placements)
    for mesh_dim in range(len(placements)):  # one after the other: cut by both, a dimension cannot be joined at once
        placements[mesh_dim] = Replicate()
        sharded = sharded.redistribute(placements=placements)
    return cast(Tensor, sharded.to_local())


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What this process holds of `value`, were it laid out like `like`; no other process is asked.

    Processes are numbered [data, tensor]. A matrix is cut among the tensor ranks first, and what each of them has
    among the data ranks, in parts as `torch.chunk` makes them: the last ones may be smaller, or empty.
    """
    if not is_sharded(like):
        return value
    sharded = cast(Any, like)
    for mesh_dim in reversed(range(sharded.device_mesh.ndim)):
        dim = getattr(sharded.placements[mesh_dim], "dim", None)  # replicated: none
        if dim is None:
            continue
        parts = value.chunk(sharded.device_mesh.size(mesh_dim), dim=dim)
        number = sharded.device_mesh.get_local_rank(mesh_dim)
        value = parts[number] if number < len(parts) else value.narrow(dim, 0, 0)
    return value


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, sharded like `like` where that is, on its device."""
    if not is_sharded(like):
        return value.to(like.device, copy=True)
    made = torch.zeros_like(like, dtype=value.dtype)
    local(made).copy_(part_of(value, like))
    return made
