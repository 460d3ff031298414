"""What happens when memory does not hold a micro-batch: nothing is lost, and a smaller one is tried."""

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from smalllm.errors import DeviceMemoryError

Result = TypeVar("Result")

_SAID_BY_ALLOCATORS = ("can't allocate memory", "std::bad_alloc", "out of memory")  # PyTorch's CPU one, C++, drivers


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an allocation that failed: on a GPU, or in one of the ways in which the CPU says it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_BY_ALLOCATORS)


@contextlib.contextmanager
def memory_guard(model: nn.Module) -> Iterator[None]:
    """Turn an allocation that fails into a `DeviceMemoryError`; the gradients so far are forgotten.

    What the failed pass held is let go of, although its frames are in the traceback.

    Raises:
        DeviceMemoryError: memory was not enough.
    """
    said = None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
    if said is not None:
        model.zero_grad(set_to_none=True)
        raise DeviceMemoryError(said)


def shrinking(act: Callable[[], Result], shrink: Callable[[DeviceMemoryError], bool]) -> Result:
    """What `act` returns, after as many calls as it takes to fit.

    Args:
        act: raises `DeviceMemoryError` and leaves nothing changed when memory is not enough.
        shrink: makes the next call smaller; False: it cannot.

    Raises:
        DeviceMemoryError: the smallest does not fit.
    """
    while True:
        try:
            return act()
        except DeviceMemoryError as error:
            if not shrink(error):
                raise
        gc.collect()  # outside of the handler: the error no longer holds the failed call
