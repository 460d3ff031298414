"""What reads tokens for a decoder: the compiled forward pass, or PyTorch."""

from typing import Literal

from smalllm.errors import ConfigError
from smalllm.generation.native import KINDS, NativeReader, load_decoder
from smalllm.generation.torch_reader import TorchReader
from smalllm.model.gpt import GPT

Backend = Literal["auto", "compiled", "torch"]
Reader = NativeReader | TorchReader


def open_reader(
    model: GPT, *, n_slots: int, device: str, precision: str, backend: Backend
) -> tuple[Literal["compiled", "torch"], Reader]:
    """What reads for a decoder, and which it is.

    Raises:
        ConfigError: it cannot be had here.
    """
    why = load_decoder() if device == "cpu" and backend != "torch" else f"it runs on the CPU, not on {device}"
    if precision not in KINDS:
        why = f"it has no {precision}"
    if backend != "torch" and not isinstance(why, str):
        return "compiled", NativeReader(model, n_slots=n_slots, weights=precision)
    if backend == "compiled":
        raise ConfigError(f'backend = "compiled": {why}; use "auto" or "torch"')
    if precision == "int8":
        reason = why if backend == "auto" else 'and backend is "torch"'
        raise ConfigError(f'precision = "int8": only the compiled decoder has it, {reason}; use "bf16" or "fp32"')
    return "torch", TorchReader(model, n_slots=n_slots, weights=precision, device=device)
