"""The curves of runs as columns of numbers: what the page draws and `report.json` holds.

A long run is thinned to a bounded number of rows that keep the lowest and highest value of every stretch, so that no
spike vanishes; the means of the same stretches are the trend, so that what is smoothed is not biased by the spikes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.model.count import flops_per_token
from smalllm.problems import problems
from smalllm.recipes import from_dict
from smalllm.reporting.facts import RunFacts, dig, reference_losses
from smalllm.reporting.words import finite

Number = int | float
Columns = dict[str, list[Number | None]]  # as the page gets them
Arrays = dict[str, NDArray[np.float64]]

N_STRETCHES = 1_000
MAX_EVENTS = 500
_AXES = ("step", "tokens", "elapsed_s")
TRAIN = ("loss", "lr", "grad_norm", "tokens_per_second")
VAL = ("loss", "bits_per_byte", "accuracy")
_NOT_A_MEASURE = {"split", "task", "n", "chance", *_AXES}


def run_curves(facts: RunFacts, *, n_stretches: int = N_STRETCHES) -> dict[str, Any]:
    """Every curve of one run.

    Args:
        facts: the run.
        n_stretches: into how many stretches a longer run is divided.

    Returns:
        `train`, `val` and, by name, `tasks`: columns `step` [updates], `tokens`, `elapsed_s` [s] and the metrics.
        `trend`: the means of the stretches of `train`, or None where all its rows are there. `events`: what happened,
        at which step. `flops_per_token`, None where the configuration does not tell.
    """
    train = columns(facts.train, TRAIN)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in facts.tasks:
        tasks.setdefault(str(row.get("task")), []).append(row)
    return {
        "flops_per_token": _flops_per_token(facts),
        "train": thinned(train, n_stretches=n_stretches),
        "trend": means(train, n_stretches=n_stretches) if len(train["step"]) > 2 * n_stretches else None,
        "val": thinned(columns(facts.val, VAL), n_stretches=n_stretches),
        "tasks": {
            task: thinned(columns(rows, task_measures(rows)), n_stretches=n_stretches) for task, rows in tasks.items()
        },
        "events": [
            {key: finite(row.get(key)) for key in _AXES} | {"event": str(row.get("event", ""))}
            for row in facts.events[-MAX_EVENTS:]
        ],
    }


def all_curves(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """`run_curves` of each run: the more runs, the fewer points of each, so that the page stays small."""
    n_stretches = max(50, N_STRETCHES // max(1, len(runs)))
    return [run_curves(facts, n_stretches=n_stretches) for facts in runs]


def columns(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Arrays:
    """The rows that have a step, as columns; what is absent, null or not finite is NaN."""
    table = {key: _array([row.get(key) for row in rows]) for key in (*_AXES, *keys)}
    known = ~np.isnan(table["step"])
    return {key: column[known] for key, column in table.items()}


def task_measures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures that the rows of one task hold, and their standard errors, in their order."""
    found = {key: None for row in rows for key, value in row.items() if finite(value) is not None}
    return [key for key in found if key not in _NOT_A_MEASURE]


def thinned(table: Arrays, *, n_stretches: int) -> Columns:
    """The first and last row, and those with the lowest or highest value of a metric in any of equal stretches."""
    n = len(table["step"])
    if n <= 2 * n_stretches:
        return {key: _short(column) for key, column in table.items()}
    kept = {0, n - 1}
    edges = _edges(n, n_stretches)
    for key in table.keys() - _AXES:
        for fill, choose in ((math.inf, np.argmin), (-math.inf, np.argmax)):
            filled = np.where(np.isnan(table[key]), fill, table[key])
            kept |= {start + int(choose(filled[start:end])) for start, end in pairwise(edges)}
    rows = np.array(sorted(kept))
    return {key: _short(column[rows]) for key, column in table.items()}


def means(table: Arrays, *, n_stretches: int) -> Columns:
    """The mean of every column in each of equal stretches; None where a stretch has no value."""
    edges = _edges(len(table["step"]), n_stretches)
    result: Columns = {}
    for key, values in table.items():
        sums = np.add.reduceat(np.where(np.isnan(values), 0.0, values), edges[:-1])
        counts = np.add.reduceat(~np.isnan(values), edges[:-1], dtype=np.int64)
        result[key] = _short(np.where(counts > 0, sums / np.maximum(counts, 1), math.nan))
    return result


def levels(facts: RunFacts) -> dict[str, list[tuple[str, Number]]]:
    """What is drawn as a horizontal line, by metric: the unigram model, the floor, the clipping norm, chance."""
    found: dict[str, list[tuple[str, Number]]] = {"loss": [], "bits_per_byte": [], "grad_norm": []}
    for name, loss, key in zip(("unigram model", "floor"), reference_losses(facts), ("unigram", "floor"), strict=True):
        if loss is not None:
            found["loss"].append((name, loss))
        bits = finite(dig(facts.result, f"{key}.bits_per_byte"))
        if bits is not None:
            found["bits_per_byte"].append((name, bits))
    for row in facts.tasks:
        chance = finite(row.get("chance"))
        if chance is not None:
            found[f"task {row.get('task')}"] = [("chance", chance)]
    clip = finite(dig(facts.config, "optim.clip_norm"))
    if clip:
        found["grad_norm"].append(("clipped to", clip))
    return found


def _flops_per_token(facts: RunFacts) -> int | None:
    """As training counts them; None if the configuration is of another version, or was mended by hand."""
    try:
        config: RunConfig = from_dict(facts.config)
        wrong = problems(config)
    except ConfigError:
        return None
    vocab_size = config.tokenizer.vocab_size
    return None if wrong or vocab_size is None else flops_per_token(config.model, vocab_size=vocab_size)


def _edges(n: int, n_stretches: int) -> NDArray[np.int64]:
    return np.linspace(0, n, n_stretches + 1).astype(np.int64)


def _array(values: Sequence[Any]) -> NDArray[np.float64]:
    # most are of these two types, and this is quick
    usual = [value if type(value) in (float, int) and -1e300 < value < 1e300 else finite(value) for value in values]
    array = np.array([math.nan if value is None else value for value in usual], dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)


def _short(values: NDArray[np.float64]) -> list[Number | None]:
    """Six digits, whole numbers exactly: for the eye no more are needed, and the page stays small."""
    return [
        None
        if math.isnan(value)
        else int(value)
        if abs(value) < 1e15 and value == int(value)
        else float(f"{value:.6g}")
        for value in values.tolist()
    ]
