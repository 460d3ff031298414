"""Before the first step: compile, and time a few updates that are then undone."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.errors import SmalllmError
from smalllm.training.distributed import ALONE, Ranks
from smalllm.training.memory import memory_guard
from smalllm.training.step import LossFunction, train_step

_REPEATS = 3


def run_once(model: nn.Module, loss_function: LossFunction, batch: tuple[Tensor, Tensor]) -> None:
    """One forward and backward pass, for the compiler; weights and gradients are as before.

    Raises:
        DeviceMemoryError: memory did not hold it.
    """
    model.train()
    try:
        with memory_guard(model):
            loss_function(model, *batch).backward()
    finally:  # a backward pass that fails leaves gradients of what came before
        model.zero_grad(set_to_none=True)


def compile_failure(model: nn.Module, loss_function: LossFunction, batch: tuple[Tensor, Tensor]) -> str:
    """`run_once`, and in words why it could not be compiled; empty where it was.

    Raises:
        DeviceMemoryError: memory did not hold it.
    """
    try:
        run_once(model, loss_function, batch)
    except SmalllmError:
        raise
    except Exception as error:  # the compiler is a program of its own, with failures of its own
        return runtime.first_line(error)
    return ""


def failure_on_any(failure: str, ranks: Ranks) -> str:
    """Why something failed here, or that it did in another process; empty where it did in none."""
    if any(has_failed for (has_failed,) in ranks.gather([bool(failure)])):
        return failure or "another process cannot compile"
    return ""


def time_update(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    loss_function: LossFunction,
    batch: tuple[Tensor, Tensor],
    *,
    grad_accum_steps: int,
    device: str,
    ranks: Ranks = ALONE,
) -> float:
    """Seconds that one update takes, measured on real updates which are undone afterwards.

    Times updates of one and of two micro-batches; the difference is what each further one costs.

    Args:
        model: with fresh or loaded weights; unchanged on return.
        optimizers: without state yet, and so again on return.
        loss_function: compiled already, if at all.
        batch: one micro-batch.
        grad_accum_steps: micro-batches of a real update.
        device: where all this is.
        ranks: the processes that do this together.

    Raises:
        DeviceMemoryError: memory did not hold the micro-batch; everything is as before.
    """
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    times_s = {1: float("inf"), 2: float("inf")}
    try:
        for repeat in range(_REPEATS):
            for n_batches in times_s:
                started_at = time.perf_counter()
                batches = [batch] * n_batches
                train_step(model, optimizers, batches, loss_function, seed=0, step=repeat, clip_norm=1.0, ranks=ranks)
                runtime.synchronize(device)
                times_s[n_batches] = min(times_s[n_batches], time.perf_counter() - started_at)
    finally:  # also where memory was not enough: it is tried again with a smaller micro-batch
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
        for optimizer in optimizers:
            optimizer.state.clear()
    return times_s[1] + (grad_accum_steps - 1) * max(0.0, times_s[2] - times_s[1])
