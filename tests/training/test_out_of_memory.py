"""Memory that is not enough: what is recognised as it, what is let go of, and what is tried again."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from smalllm.config import ModelConfig, OptimConfig
from smalllm.errors import DeviceMemoryError
from smalllm.model.gpt import GPT
from smalllm.optim.optimizers import build_optimizers
from smalllm.training.memory import is_out_of_memory, memory_guard, shrinking
from smalllm.training.step import make_loss_function, train_step
from smalllm.training.warmup import compile_failure, run_once, time_update

LOSS = make_loss_function("cpu", "fp32", compile_it=False)
TOO_MUCH = 1 << 50  # bytes that no machine has


def batch(n_rows: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(n_rows * 17).remainder(61).view(n_rows, 17)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def failing_above(n_rows: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """A loss whose backward pass has begun when the allocator really fails."""

    def loss(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        found = LOSS(model, token_ids, targets)
        if len(token_ids) > n_rows:
            (2 * found).backward()
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return found

    return loss


def test_what_the_allocators_say_is_recognised() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    with pytest.raises(MemoryError) as python:
        bytearray(1 << 62)
    assert is_out_of_memory(cpu.value) and is_out_of_memory(python.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_a_failed_pass_leaves_weights_and_gradients(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GPT(tiny_config, vocab_size=61)
    before = [p.detach().clone() for p in model.parameters()]
    optimizers = build_optimizers(model, OptimConfig())
    with pytest.raises(DeviceMemoryError, match="can't allocate memory"):
        train_step(model, optimizers, [batch(2), batch(4)], failing_above(2), seed=0, step=0, clip_norm=1.0)
    with pytest.raises(DeviceMemoryError):
        run_once(model, failing_above(2), batch(4))
    with pytest.raises(DeviceMemoryError):
        time_update(model, optimizers, failing_above(2), batch(4), grad_accum_steps=1, device="cpu")
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, value) for p, value in zip(model.parameters(), before, strict=True))
    assert not any(optimizer.state for optimizer in optimizers)


def test_a_pass_that_fails_half_way_leaves_no_gradients(tiny_config: ModelConfig) -> None:
    """As one does whose backward pass the compiler cannot make; updates after it would have them added."""
    model = GPT(tiny_config, vocab_size=61)

    def fails(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        LOSS(model, token_ids, targets).backward()
        assert any(p.grad is not None for p in model.parameters())
        raise RuntimeError("cannot compile\nat all")

    assert compile_failure(model, fails, batch(4)) == "cannot compile"
    assert all(p.grad is None for p in model.parameters())
    assert compile_failure(model, LOSS, batch(4)) == ""
    with pytest.raises(DeviceMemoryError):  # it is not the compiler's fault, and is tried again
        compile_failure(model, failing_above(2), batch(4))


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as found, memory_guard(nn.Linear(1, 1)):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not isinstance(found.value, DeviceMemoryError)


def test_it_is_tried_again_without_what_the_failed_try_held() -> None:
    held: list[weakref.ref[Tensor]] = []
    alive_at_start: list[int] = []
    size = 8

    def act() -> int:
        alive_at_start.append(sum(ref() is not None for ref in held))
        with memory_guard(nn.Linear(1, 1)):
            large = torch.zeros(size)
            held.append(weakref.ref(large))
            inner(large)
        return size

    def inner(large: Tensor) -> None:
        doubled = 2 * large
        held.append(weakref.ref(doubled))
        if size > 2:
            torch.empty(TOO_MUCH, dtype=torch.uint8)

    def shrink(error: DeviceMemoryError) -> bool:
        nonlocal size
        size //= 2
        return True

    gc.disable()  # nothing but the end of the frames may free it
    try:
        assert shrinking(act, shrink) == 2
    finally:
        gc.enable()
    assert alive_at_start == [0, 0, 0]


def test_what_cannot_shrink_is_an_error() -> None:
    def act() -> None:
        raise DeviceMemoryError("no more")

    with pytest.raises(DeviceMemoryError, match="no more"):
        shrinking(act, lambda error: False)


def test_an_update_that_has_begun_is_not_tried_again(tiny_config: ModelConfig) -> None:
    """The partner: the optimizers may have written some weights, so this is no `DeviceMemoryError`."""
    model = GPT(tiny_config, vocab_size=61)

    class Greedy(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            torch.empty(TOO_MUCH, dtype=torch.uint8)

    with pytest.raises(RuntimeError, match="can't allocate memory") as found:
        train_step(model, [Greedy(model.parameters())], [batch(2)], LOSS, seed=0, step=0, clip_norm=1.0)
    assert not isinstance(found.value, DeviceMemoryError)
