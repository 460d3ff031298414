"""Muon for matrices of which each process holds a part.

Momentum is kept in parts, like the matrix. To be made orthogonal, an update has to be whole: each rank gathers it, and
`torch.optim.Muon` works on it as on one process. So every rank does this work for every matrix, as with ddp.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Muon, Optimizer

from smalllm.sharded import local, part_of, whole


class ShardedMuon(Optimizer):
    """The updates of `torch.optim.Muon`, up to rounding; its state has the same names."""

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, momentum: float) -> None:
        """The rates are those of `torch.optim.Muon`, whose other settings are left as they are."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, buffer = local(parameter.grad), local(state["momentum_buffer"])
        buffer.lerp_(gradient, 1 - group["momentum"])
        update = torch.zeros_like(parameter)
        local(update).copy_(gradient.lerp(buffer, group["momentum"]))
        change = _orthogonal_change(whole(update), lr=group["lr"])
        mine = local(parameter)
        mine.mul_(1 - group["lr"] * group["weight_decay"]).add_(part_of(change, parameter))


def _orthogonal_change(update: torch.Tensor, *, lr: float) -> torch.Tensor:
    """What Muon without momentum and decay adds to a matrix whose gradient is `update`."""
    change = torch.nn.Parameter(torch.zeros_like(update))
    change.grad = update
    Muon([change], lr=lr, weight_decay=0.0, momentum=0.0).step()
    return change.detach()
