"""The training loop: evaluate, save, step, log, in that order, until the last step or a signal.

It knows nothing of files, tokenizers or terminals: what it needs from them comes in as `Parts`.
`step` counts updates applied. See docs/numerics.md for what a row at a step means.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.checkpoint import TrainState
from smalllm.config import RunConfig
from smalllm.optim.optimizers import set_lr
from smalllm.optim.schedule import lr_scale
from smalllm.training.clock import Clock
from smalllm.training.signals import stop_signals
from smalllm.training.step import LossFunction, train_step

EMA_ALPHA = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What the loop calls; each is a plain function."""

    loss_function: LossFunction
    batches: Callable[[int], Sequence[tuple[Tensor, Tensor]]]
    """Cursor -> the micro-batches of the step that starts there."""
    evaluate: Callable[[], Mapping[str, float]]
    """The measures of the model as it is: loss, perplexity, bits_per_token, bits_per_byte, accuracy."""
    sample: Callable[[int], None]
    """Write samples of the model at a step."""
    tasks: Callable[[], Iterable[Mapping[str, Any]]] = tuple
    """The measures of each task of the model as it is."""
    save: Callable[[TrainState, bool], None]
    """Write a checkpoint; True: it is the best so far. May raise only if the run must stop."""
    row: Callable[[Mapping[str, Any]], None]
    """Keep a row of metrics."""
    flops_per_step: int
    """Of one update of `tokens_per_step` tokens, forward and backward."""
    peak_flops: float
    """What mfu divides by [FLOP/s]."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: where it stands; saved.
        reason: "complete", "patience", or the name of the signal that stopped it.
    """

    state: TrainState
    reason: str


def run_loop(
    model: nn.Module, optimizers: list[Optimizer], config: RunConfig, state: TrainState, parts: Parts
) -> Outcome:
    """Train from `state` to the end; everything up to the returned state is saved.

    Raises:
        NonFiniteError: a loss or gradient was not finite. Nothing is saved then: the last checkpoint is likelier to
            be sound than the weights that led here.
        CheckpointError: the last checkpoint could not be written.
    """
    max_steps = config.train.max_steps
    assert max_steps is not None
    clock = Clock(elapsed_s=state.elapsed_s, train_time_s=state.train_time_s)
    first = saved_at = state.step  # a resumed run was evaluated and sampled at `first` before it was saved
    saved_time = time.monotonic()
    model.train()
    with stop_signals() as stop:
        while True:
            done, is_best = _is_over(config, state), False
            if state.step > first and (done or _is_due(state.step, config.eval.every)):
                state, is_best = _evaluate(state, parts, clock)
                done = _is_over(config, state)
            if state.step > first and (done or _is_due(state.step, config.eval.sample_every)):
                parts.sample(state.step)
            if state.step > first and _is_due(state.step, config.eval.tasks_every):
                _score_tasks(state, parts, clock)
            model.train()
            late = config.train.save_every_s and time.monotonic() - saved_time >= config.train.save_every_s
            due = is_best or done or stop.name or late or _is_due(state.step, config.train.save_every)
            if due and saved_at < state.step:
                parts.save(_timed(state, clock), is_best)
                saved_at, saved_time = state.step, time.monotonic()
            if done or stop.name:
                reason = "complete" if state.step >= max_steps else "patience" if done else str(stop.name)
                return Outcome(_timed(state, clock), reason)
            state = _step(model, optimizers, config, state, parts, clock)


def _is_over(config: RunConfig, state: TrainState) -> bool:
    """Whether the run has all its steps, or has waited long enough for a better validation loss."""
    patience = config.train.patience
    return state.step >= (config.train.max_steps or 0) or bool(patience and state.n_worse >= patience)


def _step(
    model: nn.Module,
    optimizers: list[Optimizer],
    config: RunConfig,
    state: TrainState,
    parts: Parts,
    clock: Clock,
) -> TrainState:
    train, max_steps = config.train, config.train.max_steps or 0
    started_at = time.monotonic()
    scale = lr_scale(state.step, config.optim, max_steps=max_steps)
    set_lr(optimizers, scale)
    loss, grad_norm, n_tokens = train_step(
        model,
        optimizers,
        parts.batches(state.cursor),
        parts.loss_function,
        seed=train.seed,
        step=state.step,
        clip_norm=config.optim.clip_norm,
    )
    clock.count_step(time.monotonic() - started_at, n_tokens=n_tokens)
    ema = loss if state.loss_ema is None else state.loss_ema + EMA_ALPHA * (loss - state.loss_ema)
    state = replace(
        state,
        step=state.step + 1,
        cursor=state.cursor + (0 if train.overfit_one_batch else train.tokens_per_step // config.model.context_length),
        tokens=state.tokens + n_tokens,
        loss_ema=ema,
    )
    if _is_due(state.step, train.log_every) or state.step in (1, max_steps):
        step_time_s, step_tokens = clock.take_row()
        parts.row(
            {
                "split": "train",
                "step": state.step,
                "tokens": state.tokens,
                "elapsed_s": round(clock.elapsed_s, 3),
                "loss": loss,
                "loss_ema": ema,
                "lr": config.optim.lr * scale,
                "grad_norm": grad_norm,
                "step_time_s": step_time_s,
                "tokens_per_second": step_tokens / step_time_s,
                "mfu": parts.flops_per_step * (step_tokens / train.tokens_per_step) / step_time_s / parts.peak_flops,
                "peak_memory_bytes": runtime.peak_memory_bytes(train.device),
            }
        )
    return state


def _evaluate(state: TrainState, parts: Parts, clock: Clock) -> tuple[TrainState, bool]:
    measures = parts.evaluate()
    parts.row(
        {
            "split": "val",
            "step": state.step,
            "tokens": state.tokens,
            "elapsed_s": round(clock.elapsed_s, 3),
            **measures,
        }
    )
    loss = measures["loss"]
    is_best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    if is_best:
        return replace(state, best_loss=loss, best_step=state.step, n_worse=0), True
    return replace(state, n_worse=state.n_worse + 1), False


def _score_tasks(state: TrainState, parts: Parts, clock: Clock) -> None:
    for measures in parts.tasks():
        elapsed_s = round(clock.elapsed_s, 3)
        parts.row({"split": "task", "step": state.step, "tokens": state.tokens, "elapsed_s": elapsed_s, **measures})


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _timed(state: TrainState, clock: Clock) -> TrainState:
    return replace(state, elapsed_s=clock.elapsed_s, train_time_s=clock.train_time_s)
