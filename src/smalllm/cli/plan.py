"""`smalllm plan RECIPE`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from smalllm.cli.options import DottedConfig, parse, run_options, split_recipe
from smalllm.cli.progress import make_progress
from smalllm.config import as_dict
from smalllm.reporting.words import count, duration, flops, number, rate, shell, size

if TYPE_CHECKING:
    from smalllm.api.plan import Plan


@dataclass(frozen=True)
class Options:
    """Say what a run will cost on this machine; with --minutes, which model makes the best use of them."""

    config: DottedConfig
    minutes: float | None = None
    """Wall-clock minutes to spend, compilation included; the model's size and the tokens are then chosen."""
    memory: str | None = None
    """Most memory that may be used: 24GB, 800MB or bytes; absent: --train.memory, else what the device has free."""
    guess: bool = False
    """Measure no updates; guess their time from the rate of a matrix product."""
    json: bool = False
    """Print the plan as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    config, rest, name = split_recipe(arguments, command="plan")
    options = parse(Options, rest, command=f"plan {name}", config=config)
    from smalllm.api.plan import plan

    found = plan(
        options.config,
        minutes=options.minutes,
        memory=options.memory,
        measure=not options.guess,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(_as_json(found)))
        return 0
    print(_text(found))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.minutes is not None:
        print(f"train it with:\n  {_command(found, options, name, rest)}")
    return 0


def _as_json(found: "Plan") -> dict[str, Any]:
    values = {f.name: getattr(found, f.name) for f in fields(found)}
    parts = {f.name: getattr(found.memory, f.name) for f in fields(found.memory)}
    return {
        **values,
        "config": as_dict(found.config),
        "memory": {**{f"{key}_bytes": value for key, value in parts.items()}, "total_bytes": found.memory.total},
        "tokens_per_second": found.tokens_per_second,
    }


def _text(found: "Plan") -> str:
    model, train = found.config.model, found.config.train
    how = "measured" if found.is_measured else "guessed"
    form = f"{train.precision}, {'compiled' if train.compile else 'not compiled'}"
    parts = ((f.name, getattr(found.memory, f.name)) for f in fields(found.memory))
    said = ", ".join(f"{name} {size(value)}" for name, value in parts if value)
    measured = f"; the measured updates took {size(found.measured_memory_bytes)}" if found.is_measured else ""
    lines = [
        f"model    {count(found.parameters)} parameters, {count(found.flops_per_token)} FLOPs per token: "
        f"{model.n_layers} layers, width {model.d_model}, {model.n_heads} heads, context {model.context_length}",
        f"update   {train.tokens_per_step:,} tokens, {train.micro_batch_size} sequences at a time, on {train.device} "
        f"in {form}",
        f"memory   {size(found.memory.total)} at the peak{measured}",
        f"         {said}",
        f"speed    {rate(found.tokens_per_second)} tokens/s, {duration(found.step_time_s)} an update ({how}); "
        f"{flops(found.speed_flops)}",
    ]
    if found.steps is not None:
        passes = f", {number(found.epochs)} passes over the data" if found.epochs else ""
        lines.append(
            f"run      {found.steps:,} updates, {count(found.tokens)} tokens{passes}: {duration(found.train_time_s)} "
            "of training, and evaluations"
        )
    return "\n".join(lines)


def _command(found: "Plan", options: Options, name: str, arguments: Sequence[str]) -> str:
    """What trains the planned run: the options that were given, but for those that the plan chose."""
    given, train = options.config, found.config.train
    shape = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")
    chosen: dict[str, object] = {
        f"model.{key}": getattr(found.config.model, key) for key in shape if getattr(given.model, key) is not None
    }
    chosen["train.tokens_per_step"] = train.tokens_per_step
    for key in ("max_steps", "max_tokens", "max_epochs"):  # of these and the minutes the smallest would win
        if getattr(given.train, key) is not None:
            chosen[f"train.{key}"] = None
    chosen["train.max_minutes"] = f"{options.minutes:g}"
    if options.memory is not None:
        chosen["train.memory"] = options.memory
    words = ["smalllm", "train", name, *run_options(arguments, without=chosen)]
    for field, value in chosen.items():
        words += [f"--{field}", str(value)]
    return shell(words)
