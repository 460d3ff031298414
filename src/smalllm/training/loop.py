"""The training loop: evaluate, save, step, log, in that order, until the last step or a signal.

It knows nothing of files, tokenizers or terminals: what it needs from them comes in as `Parts`.
`step` counts updates applied. See docs/numerics.md for what a row at a step means.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.checkpoint import TrainState
from smalllm.config import RunConfig
from smalllm.errors import DeviceMemoryError, NonFiniteError
from smalllm.optim.guards import next_scale, refusal, remember
from smalllm.optim.optimizers import set_lr
from smalllm.optim.schedule import lr_scale
from smalllm.training.clock import Clock
from smalllm.training.distributed import ALONE, Ranks
from smalllm.training.memory import shrinking
from smalllm.training.signals import stop_signals
from smalllm.training.step import LossFunction, Update, train_step

EMA_ALPHA = 0.01
_MAX_REWINDS = 3  # to the same checkpoint; more of the same would not help


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What the loop calls; each is a plain function."""

    loss_function: LossFunction
    batches: Callable[[int], Sequence[tuple[Tensor, Tensor]]]
    """Cursor -> the micro-batches of the step that starts there."""
    shrink: Callable[[DeviceMemoryError], bool] = lambda error: False
    """Make the micro-batches that `batches` gives smaller; False: they cannot be."""
    evaluate: Callable[[], Mapping[str, float]]
    """The measures of the model as it is: loss, perplexity, bits_per_token, bits_per_byte, accuracy."""
    sample: Callable[[int], None]
    """Write samples of the model at a step."""
    tasks: Callable[[], Iterable[Mapping[str, Any]]] = tuple
    """The measures of each task of the model as it is."""
    save: Callable[[TrainState, bool, bool], bool]
    """Write a checkpoint of a state: the best so far or not, the last of this sitting or not. Whether it was written;
    the last one raises where it was not."""
    row: Callable[[Mapping[str, Any]], None]
    """Keep a row of metrics."""
    event: Callable[[TrainState, str], None] = lambda state, what: None
    """Keep and tell what happened to the run, in words."""
    rewind: Callable[[], TrainState | None] = lambda: None
    """Put weights and optimizers back to the last checkpoint; its state, or None if there is none."""
    flops_per_step: int
    """Of one update of `tokens_per_step` tokens, forward and backward."""
    peak_flops: float
    """What mfu divides by [FLOP/s]."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: where it stands.
        reason: "complete", "patience", or the name of the signal that stopped it.
        saved_step: of the last checkpoint. It is before the state's where a signal came while updates were refused
            because losses or gradients were not finite.
    """

    state: TrainState
    reason: str
    saved_step: int


def run_loop(
    model: nn.Module,
    optimizers: list[Optimizer],
    config: RunConfig,
    state: TrainState,
    parts: Parts,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train from `state` to the end, and save it.

    Several processes go through it in step: what a signal or a clock decides is decided for all of them.

    Raises:
        DeviceMemoryError: memory did not hold the smallest micro-batch.
        NonFiniteError: losses or gradients were not finite, or updates refused, and going back to a checkpoint did
            not help. Nothing is saved then: the last checkpoint is likelier to be sound than the weights that led here.
        CheckpointError: the last checkpoint could not be written.
    """
    max_steps = config.train.max_steps
    assert max_steps is not None
    clock = Clock(elapsed_s=state.elapsed_s, train_time_s=state.train_time_s)
    first = saved_at = state.step  # a resumed run was evaluated and sampled at `first` before it was saved
    saved_time, rewound_to, n_rewinds, unsound = time.monotonic(), -1, 0, ""
    model.train()
    with stop_signals(insist=ranks.n == 1) as stop:
        while True:
            done, is_best, proven = _is_over(config, state), False, state
            if state.step > first and (done or _is_due(state.step, config.eval.every)):
                # What came to refused updates may be unsound: it is not saved before the end, so it cannot be the best.
                state, is_best = _evaluate(state, parts, clock, may_be_best=not state.n_refused or done)
                done = _is_over(config, state)
            if state.step > first and (done or _is_due(state.step, config.eval.sample_every)):
                parts.sample(state.step)
            if state.step > first and _is_due(state.step, config.eval.tasks_every):
                _score_tasks(state, parts, clock)
            model.train()
            late = config.train.save_every_s and time.monotonic() - saved_time >= config.train.save_every_s
            stop_name, late = _agreed(ranks, stop.name, bool(late))
            due = is_best or done or stop_name or late or _is_due(state.step, config.train.save_every)
            if done and unsound:
                raise _unsound(state.step, unsound)
            is_last = done or bool(stop_name)
            if due and saved_at < state.step and not (unsound if is_last else state.n_refused):
                # Rank 0 saves, and the others wait: where one process ends, torchrun ends all.
                if ranks.from_first(parts.save(_timed(state, clock), is_best, is_last)):
                    saved_at = state.step
                else:
                    state = replace(state, best_loss=proven.best_loss, best_step=proven.best_step)
                saved_time = time.monotonic()
            if is_last:
                reason = "complete" if state.step >= max_steps else "patience" if done else str(stop_name)
                return Outcome(_timed(state, clock), reason, saved_at)
            before = state
            state, update = _step(model, optimizers, config, state, parts, clock, ranks)
            unsound = "" if math.isfinite(update.loss + update.grad_norm) else update.refused
            if not update.refused:
                continue
            if state.n_refused == before.n_refused:
                unsound = ""
                parts.event(state, f"FP16 overflow: the loss scale is now {state.loss_scale:g}")
                continue
            if unsound and not config.train.rewind_after:
                raise _unsound(before.step, unsound)
            parts.event(state, f"update refused: {update.refused}")
            if 0 < config.train.rewind_after <= state.n_refused:
                n_rewinds = n_rewinds + 1 if saved_at == rewound_to else 1
                state = _rewind(before, state, parts, n_rewinds=n_rewinds, why=update.refused)
                first = saved_at = rewound_to = state.step
                unsound = ""


def _rewind(before: TrainState, state: TrainState, parts: Parts, *, n_rewinds: int, why: str) -> TrainState:
    """Back to the last checkpoint, and on with the windows that come after those that were refused.

    Raises:
        NonFiniteError: tried too often, or there is no checkpoint.
    """
    kept = parts.rewind() if n_rewinds <= _MAX_REWINDS else None
    if kept is None:
        tried = f"after {_MAX_REWINDS} returns to the same checkpoint " if n_rewinds > _MAX_REWINDS else ""
        raise _unsound(before.step, tried + why)
    parts.event(
        kept,
        f"back from step {state.step:,} to the checkpoint of step {kept.step:,}, on with other windows, after "
        f"{state.n_refused} refused updates; the last because {why}",
    )
    return replace(kept, cursor=state.cursor, n_refused=0)


def _unsound(step: int, why: str) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: {why}; the weights of step {step} are untouched; lower --optim.lr (or --optim.muon_lr), keep "
        "--optim.clip_norm at 1, or use --train.precision fp32",
        step=step,
    )


def _agreed(ranks: Ranks, stop_name: str | None, late: bool) -> tuple[str | None, bool]:
    """The signal that any rank got, and whether rank 0's clock says that it is time to save."""
    if ranks.n == 1:
        return stop_name, late
    number = float(signal.Signals[stop_name]) if stop_name else 0.0
    rows = ranks.gather([number, float(late)])
    number = max(row[0] for row in rows)
    return (signal.Signals(int(number)).name if number else None), bool(rows[0][1])


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
    ranks: Ranks,
) -> tuple[TrainState, Update]:
    train, max_steps = config.train, config.train.max_steps or 0
    started_at = time.monotonic()
    scale = lr_scale(state.step, config.optim, max_steps=max_steps)
    set_lr(optimizers, scale)
    is_scaled = train.precision == "fp16"
    act = partial(
        train_step,
        seed=train.seed,
        step=state.step,
        clip_norm=config.optim.clip_norm,
        refusal=partial(refusal, losses=state.losses, grad_norms=state.grad_norms, sigmas=train.skip_spikes),
        loss_scale=state.loss_scale if is_scaled else 1.0,
        ranks=ranks,
    )
    update = shrinking(lambda: act(model, optimizers, parts.batches(state.cursor), parts.loss_function), parts.shrink)
    clock.count_step(time.monotonic() - started_at, n_tokens=update.n_targets)
    state = _after(state, update, config, is_scaled=is_scaled)
    if not update.refused and (_is_due(state.step, train.log_every) or state.step in (1, max_steps)):
        step_time_s, step_tokens = clock.take_row()
        parts.row(
            {
                "split": "train",
                "step": state.step,
                "tokens": state.tokens,
                "elapsed_s": round(clock.elapsed_s, 3),
                "loss": update.loss,
                "loss_ema": state.loss_ema,
                "lr": config.optim.lr * scale,
                "grad_norm": update.grad_norm,
                "step_time_s": step_time_s,
                "tokens_per_second": step_tokens / step_time_s,
                "mfu": parts.flops_per_step * (step_tokens / train.tokens_per_step) / step_time_s / parts.peak_flops,
                "peak_memory_bytes": runtime.peak_memory_bytes(train.device),
            }
        )
    return state, update


def _after(state: TrainState, update: Update, config: RunConfig, *, is_scaled: bool) -> TrainState:
    """The state after an update, or after one that was refused: its windows are used up, its tokens not learned."""
    before, is_bad = state, bool(update.refused)
    n_windows = 0 if config.train.overfit_one_batch else config.train.tokens_per_step // config.model.context_length
    state = replace(state, step=state.step + 1, cursor=state.cursor + n_windows)
    if is_scaled:
        scale, n_scaled = next_scale(state.loss_scale, state.n_scaled, overflowed=not math.isfinite(update.grad_norm))
        state = replace(state, loss_scale=scale, n_scaled=n_scaled)
    if is_bad:
        found_its_scale = state.loss_scale < before.loss_scale and math.isfinite(update.loss)
        return state if found_its_scale else replace(state, n_refused=state.n_refused + 1)
    ema = update.loss if state.loss_ema is None else state.loss_ema + EMA_ALPHA * (update.loss - state.loss_ema)
    state = replace(state, tokens=state.tokens + update.n_targets, loss_ema=ema, n_refused=0)
    if config.train.skip_spikes:
        losses, norms = remember(state.losses, update.loss), remember(state.grad_norms, update.grad_norm)
        state = replace(state, losses=losses, grad_norms=norms)
    return state


def _evaluate(state: TrainState, parts: Parts, clock: Clock, *, may_be_best: bool) -> tuple[TrainState, bool]:
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
    if is_best and not may_be_best:
        return state, False
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
