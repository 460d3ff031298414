"""`plan`: what a run will cost on this machine, and which model makes the best use of some minutes of it."""

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

from smalllm import runtime
from smalllm.api.fitting import fits_here
from smalllm.api.here import Here, configure_here
from smalllm.api.trial import Contestant, started
from smalllm.api.trial_child import OURS
from smalllm.config import ModelConfig, RunConfig
from smalllm.errors import ConfigError
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.planning.budget import COMPUTE_OPTIMAL, best_shape, tokens_per_step
from smalllm.planning.memory import Memory, predict_memory, repeated_flops
from smalllm.problems import check
from smalllm.protocols import Progress, Silent
from smalllm.recipes.resolve import micro_batch_size, resolve_shape, smaller_micro_batch

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 20  # of updates; the first are slower, so that the median is not one of them
_MEASURED_S = 5.0  # unless those are enough: a machine that others use is slow for a second now and then
_TRAINING_SHARE = 0.95  # of the minutes; the rest is for evaluations and checkpoints
_ASSUMED_SHARE = {False: 0.15, True: 0.3}  # of a matrix product's rate; by whether compiled
_MOST_TRIALS = 3  # of shapes for some minutes
_SHARD_PAGE_BYTES = 65_536  # that one read of a shard brings in at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run costs here.

    Attributes:
        config: resolved for this machine; `train.max_steps` is absent where the length is not known.
        parameters: of the model.
        flops_per_token: forward and backward.
        memory: the predicted peak, by part.
        measured_memory_bytes: peak of the measured updates; None: not measured.
        step_time_s: of an update.
        is_measured: whether the time is that of real updates here, not a guess from a product's rate.
        startup_s: until the first update: imports, and compiling.
        steps: updates; None: the length is in epochs of data that are not prepared.
        tokens: in all updates.
        train_time_s: of all updates.
        epochs: passes over the prepared data; None: they are not prepared.
        notes: what a user should know of it.
    """

    config: RunConfig
    parameters: int
    flops_per_token: int
    memory: Memory
    measured_memory_bytes: int | None
    step_time_s: float
    is_measured: bool
    startup_s: float
    steps: int | None
    tokens: int | None
    train_time_s: float | None
    epochs: float | None
    notes: tuple[str, ...]

    @property
    def tokens_per_second(self) -> float:
        """Of updates."""
        return self.config.train.tokens_per_step / self.step_time_s

    @property
    def speed_flops(self) -> float:
        """Of updates [FLOP/s]."""
        return self.flops_per_token * self.tokens_per_second


def plan(
    config: RunConfig,
    *,
    minutes: float | None = None,
    memory: int | str | None = None,
    measure: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """What a run of this configuration costs here; or, with minutes, the run that makes the best use of them.

    Args:
        config: what to run; its data need not be prepared.
        minutes: of wall-clock time, compilation included; the shape and the length are then chosen (see
            `planning/budget.py`), and the depth and width of `config` only say in which ratio.
        memory: most that may be used, as "24GB" or bytes; absent: `train.memory`, else what the device has free.
        measure: time real updates, each shape in a process of its own; else guess from a matrix product's rate.
        progress: told what is measured.

    Raises:
        ConfigError: the configuration has problems, or nothing says how many ids the tokenizer will have.
        RunError: the measured updates failed.
    """
    if minutes is not None and not 0 < minutes < 1e7:
        raise ConfigError(f"--minutes {minutes}: must be more than 0")
    if memory is not None:
        config = check(replace(config, train=replace(config.train, memory=memory)))
    progress = progress or Silent()
    if minutes is None:
        return _cost(configure_here(config), measure=measure, progress=progress)
    config = replace(
        config, train=replace(config.train, max_steps=None, max_tokens=None, max_epochs=None, max_minutes=minutes)
    )
    found = _cost(configure_here(config), measure=measure, progress=progress)
    for _ in range(_MOST_TRIALS - 1):
        chosen, known = _spend(config, found, minutes), found.config
        is_known = chosen.train.tokens_per_step == known.train.tokens_per_step
        if is_known and resolve_shape(chosen.model) == known.model:
            break
        found = _cost(configure_here(chosen), measure=measure, progress=progress)
    return found


def _spend(config: RunConfig, known: Plan, minutes: float) -> RunConfig:
    """The configuration in the shape, and with the batch, that spend the minutes at the speed that is known."""
    vocab_size = known.config.tokenizer.vocab_size or 0
    seconds = _training_s(minutes, known.startup_s)
    train = replace(known.config.train, micro_batch_size=1)
    device = train.device

    def fits(shape: ModelConfig) -> bool:
        return fits_here(replace(config, model=shape), vocab_size=vocab_size, device=device)(train)

    shape = best_shape(config.model, vocab_size=vocab_size, speed_flops=known.speed_flops, seconds=seconds, fits=fits)
    n_tokens = known.speed_flops * seconds / flops_per_token(shape, vocab_size=vocab_size)
    step = tokens_per_step(config.train.tokens_per_step, context_length=shape.context_length, n_tokens=n_tokens)
    return replace(config, model=shape, train=replace(config.train, tokens_per_step=step))


def _training_s(minutes: float, startup_s: float) -> float:
    return max(1.0, _TRAINING_SHARE * (60 * minutes - startup_s))


def _cost(here: Here, *, measure: bool, progress: Progress) -> Plan:
    config, train, model = here.config, here.config.train, here.config.model
    flops = flops_per_token(model, vocab_size=here.vocab_size)
    work = (flops + repeated_flops(model, train)) * train.tokens_per_step
    step_time_s, startup_s, peak = work / _assumed_flops(config), 0.0, None
    if measure:
        progress.say(f"measuring {model.n_layers} layers of width {model.d_model}: a few updates, in another process")
        step_time_s, startup_s, peak = _measured(here)
    steps = train.max_steps
    if train.max_minutes is not None:
        fitting = max(1, int(_training_s(train.max_minutes, startup_s) / step_time_s))
        steps = min(fitting, steps or fitting)
    tokens = None if steps is None else steps * train.tokens_per_step
    epochs = tokens / here.train_tokens if tokens and here.train_tokens else None
    n_windows = (tokens or here.data_bytes) // model.context_length
    memory = predict_memory(
        model,
        config.optim,
        train,
        vocab_size=here.vocab_size,
        data_bytes=min(here.data_bytes, n_windows * _SHARD_PAGE_BYTES),
    )
    return Plan(
        config=config,
        parameters=count_parameters(model, vocab_size=here.vocab_size).total,
        flops_per_token=flops,
        memory=memory,
        measured_memory_bytes=peak,
        step_time_s=step_time_s,
        is_measured=measure,
        startup_s=startup_s,
        steps=steps,
        tokens=tokens,
        train_time_s=None if steps is None else steps * step_time_s,
        epochs=epochs,
        notes=tuple(_notes(here, memory, tokens, epochs)),
    )


def _assumed_flops(config: RunConfig) -> float:
    device, share = config.train.device, _ASSUMED_SHARE[bool(config.train.compile)]
    return share * runtime.peak_flops(device)


def _measured(here: Here) -> tuple[float, float, int]:
    """Seconds of an update, seconds until it could begin, and the peak memory of a few [bytes]."""
    config = here.config
    n_micro = config.train.tokens_per_step // (micro_batch_size(config) * config.model.context_length)
    began_at = time.monotonic()
    contestant = Contestant(library=OURS, precision=config.train.precision, compile=bool(config.train.compile))
    times_s: dict[int, list[float]] = {1: [], 2: []}
    answer: dict[str, Any] = {}
    with started(config, here.vocab_size, min(2, n_micro), contestant) as child:
        ready_at = time.monotonic()
        startup_s = ready_at - began_at
        for done in range(_MOST_ROUNDS):
            if done >= _LEAST_ROUNDS and time.monotonic() - ready_at > _MEASURED_S:
                break
            for n in range(1, min(2, n_micro) + 1):
                answer = child.ask(n)
                times_s[n].append(answer["seconds"])
    one_s = statistics.median(times_s[1])  # a run has slow updates too
    more_s = max(0.0, statistics.median(times_s[2]) - one_s) if times_s[2] else 0.0
    return one_s + (n_micro - 1) * more_s, startup_s, answer["peak_memory_bytes"]


def _notes(here: Here, memory: Memory, tokens: int | None, epochs: float | None) -> list[str]:
    config, notes = here.config, []
    limit_fits = fits_here(config, vocab_size=here.vocab_size, device=config.train.device)
    if not limit_fits(config.train):
        smaller = smaller_micro_batch(config)
        advice = "give a smaller --train.micro_batch_size" if smaller else "choose a smaller model or context"
        notes.append(f"this is more memory than there is, or than --memory allows: {advice}")
    if tokens is None:
        notes.append("the length is in epochs, and the data are not prepared: how many tokens it is, is not known yet")
    elif tokens < 0.5 * COMPUTE_OPTIMAL * _parameters(here):
        notes.append(
            f"{tokens / _parameters(here):.2g} tokens for each parameter, fewer than the {COMPUTE_OPTIMAL:g} that are "
            "thought best: a smaller model would learn more in the time (see --minutes)"
        )
    if epochs is not None and epochs > 4:
        notes.append(f"{epochs:.3g} passes over the data: repeating text more than four times adds little")
    return notes


def _parameters(here: Here) -> int:
    return count_parameters(here.config.model, vocab_size=here.vocab_size).total
