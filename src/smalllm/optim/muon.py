"""Muon: momentum, made orthogonal by a Newton-Schulz iteration, for matrices of the hidden layers.

The updates are those of `torch.optim.Muon`, up to rounding, and the state has its names. Matrices of one shape are done
together, which takes less than half the time for small models (docs/log.md), in BF16 where that is native and else in
FP32: emulated BF16 is many times slower. Of a matrix that several processes share, each keeps a part of the momentum
and gathers the whole update to make it orthogonal.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Bernstein and Newhouse 2024 (the iteration).
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smalllm.sharded import local, part_of, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7
_MOST_NUMBERS = 1 << 25  # in matrices that are done together, so that large models need little more memory


class Muon(Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    A change has the rate times sqrt(max(1, rows / columns)) as its singular values, nearly.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype) -> None:
        """Groups may have `weight_decay`.

        Args:
            params: groups of matrices.
            lr: of groups without their own.
            momentum: of the gradient.
            dtype: of the iteration.
        """
        self._dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            together: dict[tuple[torch.Size, torch.device], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    together[parameter.shape, parameter.device].append(parameter)
            for (shape, _), parameters in together.items():
                size = max(1, _MOST_NUMBERS // shape.numel())
                for start in range(0, len(parameters), size):
                    self._update(parameters[start : start + size], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        directions = torch.stack([whole(self._direction(parameter, group["momentum"])) for parameter in parameters])
        changes = orthogonalize(directions.to(self._dtype)).float()
        rows, columns = parameters[0].shape
        rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
        for parameter, change in zip(parameters, changes, strict=True):
            mine = local(parameter)
            mine.mul_(1 - group["lr"] * group["weight_decay"]).sub_(part_of(change, parameter), alpha=rate)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient and its running mean, mixed; a matrix like the parameter."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, mean = local(parameter.grad), local(state["momentum_buffer"])
        mean.lerp_(gradient, 1 - momentum)
        direction = torch.zeros_like(parameter)
        local(direction).copy_(gradient.lerp(mean, momentum))
        return direction


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices [n rows columns] with their singular values brought near 1 (0.7 to 1.2), their directions kept."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
