"""Absent and `auto` values become numbers, once; the result is stored with the run and repeats it.

This floor cannot know the device, the vocabulary, the size of the data or the machine's speed: they are passed in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from smalllm.config import DeviceChoice, ModelConfig, OptimConfig, Precision, RunConfig, TrainConfig
from smalllm.errors import ConfigError

COMPILE_PAYS_AFTER_S = 120.0  # compiling costs 20 to 60 s on two cores and makes steps 1.5 to 2 times as fast
_TRAINING_SHARE = 0.95  # of the minutes; the rest is for evaluations and checkpoints
_ASSUMED_MFU = 0.3  # of an uncompiled step, to guess how long a run will take
_CPU_MICRO_BATCH_TOKENS = 4_096  # more at once are no faster
_GPU_MICRO_BATCH_TOKENS = 65_536

_BYTES = {unit: 1000**power for power, unit in enumerate(["", "KB", "MB", "GB", "TB"])}
_BYTES |= {"B": 1} | {unit: 1024**power for power, unit in enumerate(["KIB", "MIB", "GIB", "TIB"], start=1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What resolving needs to know of the machine."""

    device: DeviceChoice
    """cpu, cuda or mps."""
    precision: Precision
    """What `precision = "auto"` becomes."""
    can_compile: bool
    """Whether torch.compile works here."""
    threads: int
    """Physical cores."""
    peak_flops: float
    """Rate of a large matrix product [FLOP/s]."""
    n_data_ranks: int = 1
    """Processes that share the windows of a step."""


def resolve_shape(model: ModelConfig) -> ModelConfig:
    """The model with `d_head`, `n_kv_heads` and `d_ff` filled in."""
    d_ff = model.d_ff
    if d_ff is None:
        d_ff = 4 * model.d_model if model.mlp == "gelu" else -(-8 * model.d_model // 3 // 64) * 64
    return replace(
        model,
        d_head=model.d_head or model.d_model // model.n_heads,
        n_kv_heads=model.n_kv_heads or model.n_heads,
        d_ff=d_ff,
    )


def resolve(
    config: RunConfig,
    machine: Machine,
    *,
    vocab_size: int,
    train_tokens: int,
    flops_per_token: int,
    fill: float = 1.0,
    fits: Callable[[TrainConfig], bool] = lambda train: True,
) -> tuple[RunConfig, list[str]]:
    """Fill in everything but a `max_minutes`, which needs timed steps (see `resolve_minutes`).

    Args:
        config: as the user wrote it, without problems.
        machine: what it will run on.
        vocab_size: of the tokenizer that made the data.
        train_tokens: in an epoch, padding not counted.
        flops_per_token: forward and backward.
        fill: share of the positions that are not padding.
        fits: whether memory will hold a run with these values; asked only for a micro-batch that is "auto".

    Returns:
        The configuration to run and store, and notices about values that were changed.

    Raises:
        ConfigError: no length was given, or the batch cannot be cut as asked.
    """
    train, notices = config.train, []
    max_steps = _max_steps(config, train_tokens=train_tokens, fill=fill)
    seconds = 60 * train.max_minutes if train.max_minutes else math.inf
    if max_steps is not None:
        work = max_steps * train.tokens_per_step * flops_per_token
        seconds = min(seconds, work / (_ASSUMED_MFU * machine.peak_flops))
    compile_it = train.compile
    if compile_it == "auto":
        compile_it = machine.can_compile and seconds > COMPILE_PAYS_AFTER_S
    if train.overfit_one_batch and train.patience:
        notices.append(
            f"train.patience = {train.patience} is set to 0: train.overfit_one_batch gets worse on other text"
        )
        train = replace(train, patience=0)
    train = replace(
        train,
        max_steps=max_steps,
        precision=machine.precision if train.precision == "auto" else train.precision,
        compile=compile_it,
        device=machine.device,
        threads=train.threads or machine.threads,
    )
    train = replace(train, micro_batch_size=_micro_batch_size(replace(config, train=train), machine, fits))
    resolved = replace(
        config,
        model=resolve_shape(config.model),
        tokenizer=replace(config.tokenizer, vocab_size=vocab_size),
        train=train,
    )
    if max_steps is not None:
        resolved, warmup_notices = _resolve_warmup(resolved)
        notices += warmup_notices
    return resolved, notices


def resolve_minutes(
    config: RunConfig, *, step_time_s: float, spent_s: float = 0.0, done_steps: int = 0
) -> tuple[RunConfig, list[str]]:
    """Turn `max_minutes` into steps with a measured step time; a smaller `max_steps` stays.

    The stored result has `max_steps` only, so that repeating the run repeats it exactly.

    Args:
        config: resolved but for `max_minutes`.
        step_time_s: seconds of one update, as measured.
        spent_s: seconds of the minutes that preparation (compiling) has taken already.
        done_steps: updates applied before this sitting; the minutes are those of this sitting.
    """
    minutes = config.train.max_minutes
    if minutes is None:
        return config, []
    fitting = done_steps + max(1, int(_TRAINING_SHARE * (60 * minutes - spent_s) / step_time_s))
    max_steps = min(fitting, config.train.max_steps or fitting)
    train = replace(config.train, max_steps=max_steps, max_minutes=None)
    return _resolve_warmup(replace(config, train=train))


def _max_steps(config: RunConfig, *, train_tokens: int, fill: float) -> int | None:
    train = config.train
    step_tokens = train.tokens_per_step * fill  # that an update learns from, on average
    limits = []
    if train.max_steps is not None:
        limits.append(train.max_steps)
    if train.max_tokens is not None:
        limits.append(math.ceil(train.max_tokens / step_tokens))
    if train.max_epochs is not None:
        limits.append(max(1, int(train.max_epochs * train_tokens / step_tokens)))
    if not limits and train.max_minutes is None:
        raise ConfigError(
            "train: nothing says how long to train; give one of --train.max_steps, --train.max_tokens, "
            "--train.max_epochs, --train.max_minutes"
        )
    return min(limits) if limits else None


def windows_per_rank(config: RunConfig, n_data_ranks: int) -> int:
    """Windows that each process has of a step.

    Raises:
        ConfigError: the windows of a step cannot be shared in equal parts.
    """
    train, context = config.train, config.model.context_length
    n_windows = train.tokens_per_step // context
    if n_windows % n_data_ranks:
        raise ConfigError(
            f"train.tokens_per_step = {train.tokens_per_step}: {n_data_ranks} processes cannot share its {n_windows} "
            f"windows of model.context_length = {context} in equal parts; use a multiple of {context * n_data_ranks}, "
            f"for example {_multiple(train.tokens_per_step, context * n_data_ranks)}"
        )
    return n_windows // n_data_ranks


def largest_divisor(n: int, *, at_most: int) -> int:
    """The largest divisor of `n` up to `at_most`, 1 at least."""
    return max((d for d in range(1, min(n, at_most) + 1) if n % d == 0), default=1)


def _multiple(n: int, of: int) -> int:
    return max(1, (n + of // 2) // of) * of


def memory_bytes(text: int | str) -> int:
    """An amount of memory as a user writes it, "24GB", "1.5 GiB" or a number, in bytes.

    Raises:
        ValueError: it is not one, or not positive.
    """
    written = str(text).strip().upper()
    number = written.rstrip("BGIKMT ")
    unit = written.removeprefix(number).strip()
    if unit not in _BYTES or not number.replace(".", "", 1).isdecimal() or float(number) <= 0:
        raise ValueError(f'{text!r}: must be an amount of memory, for example "24GB", "800MB" or a number of bytes')
    return int(float(number) * _BYTES[unit])


def micro_batch_size(config: RunConfig) -> int:
    """Sequences per forward pass of a resolved configuration."""
    size = config.train.micro_batch_size
    assert isinstance(size, int), "resolved"
    return size


def smaller_micro_batch(config: RunConfig, *, n_data_ranks: int = 1) -> int | None:
    """The largest micro-batch of at most half the size that cuts a process's windows evenly; None: it is 1 already."""
    size = micro_batch_size(config)
    return largest_divisor(windows_per_rank(config, n_data_ranks), at_most=size // 2) if size > 1 else None


def _micro_batch_size(config: RunConfig, machine: Machine, fits: Callable[[TrainConfig], bool]) -> int:
    """What was asked for, or the largest divisor of a process's windows that fits and that the device likes at once."""
    train, context = config.train, config.model.context_length
    n_windows, asked = windows_per_rank(config, machine.n_data_ranks), config.train.micro_batch_size
    if asked == "auto":
        budget = _CPU_MICRO_BATCH_TOKENS if machine.device == "cpu" else _GPU_MICRO_BATCH_TOKENS
        sizes = [n for n in range(n_windows, 1, -1) if n_windows % n == 0 and n * context <= budget]
        return next((n for n in sizes if fits(replace(train, micro_batch_size=n))), 1)
    if n_windows % asked:
        raise ConfigError(
            f"train.micro_batch_size = {asked}: must divide the {n_windows} windows that each of "
            f"{machine.n_data_ranks} processes has of train.tokens_per_step = {train.tokens_per_step}; use "
            f"--train.micro_batch_size {largest_divisor(n_windows, at_most=asked)}, or train.tokens_per_step = "
            f"{_multiple(train.tokens_per_step, context * asked * machine.n_data_ranks)}"
        )
    return asked


def _resolve_warmup(config: RunConfig) -> tuple[RunConfig, list[str]]:
    optim: OptimConfig = config.optim
    max_steps = config.train.max_steps
    assert max_steps is not None
    warmup = optim.warmup_steps
    if warmup is None:
        warmup = round(optim.warmup_fraction * max_steps)
    notices = []
    if warmup > max_steps // 2:
        notices.append(
            f"optim.warmup_steps = {warmup} is more than half of the {max_steps} steps; using {max_steps // 2}"
        )
        warmup = max_steps // 2
    return replace(config, optim=replace(optim, warmup_steps=warmup, warmup_fraction=0.0)), notices
