"""What reads tokens for a decoder: the compiled forward pass, or PyTorch."""

from typing import Literal

from smalllm.errors import ConfigError
from smalllm.generation.native import KINDS, NativeReader, load_decoder
from smalllm.generation.torch_reader import TorchReader
from smalllm.model.gpt import GPT

Backend = Literal["auto", "compiled", "torch"]
Reader = NativeReader | TorchReader
_ON_CUDA = ("tf32", "fp16")


def weights_of(precision: str, device: str) -> str:
    """The precision of a decoder's weights for a run of this precision: FP16, where no decoder has it, becomes FP32."""
    return "fp32" if precision == "fp16" and device != "cuda" else precision


def why_not_compiled(device: str) -> str | None:
    """Why the compiled decoder is not to be had here, in words; None where it is."""
    found = load_decoder() if device == "cpu" else f"it runs on the CPU, not on {device}"
    return found if isinstance(found, str) else None


def open_reader(
    model: GPT, *, n_slots: int, device: str, precision: str, backend: Backend
) -> tuple[Literal["compiled", "torch"], Reader]:
    """What reads for a decoder, and which it is.

    Raises:
        ConfigError: it cannot be had here.
    """
    known = (*KINDS, *_ON_CUDA) if device == "cuda" else tuple(KINDS)
    if precision not in known:
        only = ", which only CUDA has" if precision in _ON_CUDA else ""
        raise ConfigError(f'precision = "{precision}"{only}: must be one of {", ".join(known)} on {device}')
    why = None if backend == "torch" else why_not_compiled(device)
    if precision not in KINDS:
        why = f"it has no {precision}"
    if backend != "torch" and why is None:
        return "compiled", NativeReader(model, n_slots=n_slots, weights=precision)
    if backend == "compiled":
        raise ConfigError(f'backend = "compiled": {why}; use "auto" or "torch"')
    if precision == "int8":
        reason = why if backend == "auto" else 'and backend is "torch"'
        raise ConfigError(f'precision = "int8": only the compiled decoder has it, {reason}; use "bf16" or "fp32"')
    return "torch", TorchReader(model, n_slots=n_slots, weights=precision, device=device)
