"""A stand-in for a device that this machine may lack: what its tensors refuse, these refuse."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class OnMps(Tensor):
    """A tensor that, like one on mps, has no FP64 and no NumPy, and does not mix with those of the CPU."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name == "cpu":
            return args[0].as_subclass(Tensor)
        if name in ("double", "numpy"):
            raise TypeError(f"an mps tensor has no {name}")
        if any(isinstance(one, Tensor) and not isinstance(one, OnMps) and one.dim() for one in args):
            raise RuntimeError("expected all tensors to be on the same device")
        return super().__torch_function__(function, types, args, kwargs or {})


class ToMps(nn.Module):
    """A module whose outputs are on the device."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).as_subclass(OnMps)


def parameters_to_mps(model: nn.Module) -> None:
    """Put a model's parameters there; it cannot compute then."""
    there = {parameter: parameter.detach().as_subclass(OnMps) for parameter in model.parameters()}  # a tied one once
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = there[parameter]  # type: ignore[assignment]
