"""What a run wrote down, read once for the plots and the page; and its curves as arrays, thinned for drawing.

Any file may be missing (a run that still trains, or was copied in part), any number may be null.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import RunError
from smalllm.reporting.words import finite
from smalllm.rundir import RunDir, read_json, read_jsonl


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The files of one run, parsed; what is missing is empty."""

    name: str
    path: str
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    result: dict[str, Any]
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]

    @property
    def recipe(self) -> str:
        """The recipe's name, or "custom"."""
        return str(self.config.get("recipe") or self.result.get("recipe") or "custom")

    @property
    def last_val(self) -> dict[str, Any]:
        """The evaluation the headline rests on: the result's, else the last one logged."""
        final = dig(self.result, "val")
        return final if isinstance(final, dict) and final else (self.val[-1] if self.val else {})


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric: the steps [updates] where it has a finite value, and the values. Both `[n]`."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)


def read_facts(run: RunDir) -> RunFacts:
    """Read all that the reports need.

    Raises:
        RunError: there is no such directory, or its config.toml or metrics.jsonl is damaged.
    """
    if not run.path.is_dir():
        raise RunError(f"{run.path}: no such run directory; give one that `smalllm train` has written")
    config: dict[str, Any] = {}
    config_text = ""
    if run.config.exists():
        try:
            config_text = run.config.read_text(encoding="utf-8")
            config = json.loads(json.dumps(tomllib.loads(config_text), default=str))  # a date becomes text
        except ValueError as error:  # not TOML, or not UTF-8
            raise RunError(f"{run.config}: not valid TOML ({error}); mend it, or remove it") from error
    rows = read_jsonl(run.metrics)
    return RunFacts(
        name=run.path.resolve().name,
        path=str(run.path),
        config=config,
        config_text=config_text,
        environment=read_json(run.environment),
        result=read_json(run.result),
        train=[row for row in rows if row.get("split") == "train"],
        val=[row for row in rows if row.get("split") == "val"],
        tasks=[row for row in rows if row.get("split") == "task"],
        events=[row for row in rows if row.get("split") == "event"],
        samples=read_jsonl(run.samples),
    )


def labels(runs: Sequence[RunFacts]) -> list[str]:
    """A name for each of several runs: its folder's, or its whole path where two folders have the same name."""
    names = [facts.name for facts in runs]
    return [facts.path if names.count(facts.name) > 1 else facts.name for facts in runs]


def dig(table: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted name in nested dictionaries, or None: `dig(result, "val.loss")`."""
    value: Any = table
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def curve(rows: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """One metric over the steps; rows where it is absent, null or not finite are left out."""
    pairs = ((finite(row.get("step")), finite(row.get(key))) for row in rows)
    known = np.array([(x, y) for x, y in pairs if x is not None and y is not None], dtype=np.float64).reshape(-1, 2)
    return Curve(known[:, 0], known[:, 1])


def thin(whole: Curve, *, max_points: int) -> Curve:
    """At most `max_points` (at least 4) points that look like the whole curve.

    Keeps the first and last point, and the lowest and highest of each of many equal stretches, so that
    no spike vanishes.
    """
    if len(whole) <= max_points:
        return whole
    kept = {0, len(whole) - 1}
    edges = np.linspace(0, len(whole), (max_points - 2) // 2 + 1).astype(int)
    for start, end in pairwise(edges):
        stretch = whole.values[start:end]
        kept |= {start + int(stretch.argmin()), start + int(stretch.argmax())}
    indices = np.array(sorted(kept))
    return Curve(whole.steps[indices], whole.values[indices])


def smooth(whole: Curve) -> Curve:
    """Each value's average with its neighbours on both sides, the weights falling over about 2% of the points.

    For the eye: over at least 4 points, it neither lags behind a steep start nor is biased at an end, and leaves a long
    run no noisier than a short one.
    """
    decay = 1 - 1 / max(4.0, 0.02 * len(whole))
    forward, backward = _decaying(whole.values, decay), _decaying(whole.values[::-1], decay)[:, ::-1]
    totals, weights = forward + backward - [whole.values, np.ones(len(whole))]  # both count the value itself
    return Curve(whole.steps, totals / weights)


def _decaying(values: NDArray[np.float64], decay: float) -> NDArray[np.float64]:
    """Sums in which what is past counts ever less, and the sums of what each counted for: `[2 n]`."""
    total = weight = 0.0
    totals, weights = [], []
    for value in values.tolist():
        total, weight = decay * total + value, decay * weight + 1
        totals.append(total)
        weights.append(weight)
    return np.array([totals, weights])


def bucket_medians(whole: Curve, *, n_buckets: int) -> Curve:
    """The median of each of `n_buckets` equal stretches, at its middle step: the trend without the spikes."""
    n = min(n_buckets, len(whole))
    if n == 0:
        return whole
    steps = [float(np.median(part)) for part in np.array_split(whole.steps, n)]
    values = [float(np.median(part)) for part in np.array_split(whole.values, n)]
    return Curve(np.array(steps), np.array(values))


def loss_limits(facts: RunFacts) -> tuple[float, float] | None:
    """The lowest and highest loss worth showing [nats/token], or None for a run without any loss.

    The first 2% of the steps and single spikes do not count: they would squash the rest.
    """
    known = [c for c in (curve(facts.train, "loss"), curve(facts.val, "loss")) if len(c)]
    if not known:
        return None
    start = 0.02 * max(c.steps[-1] for c in known)
    settled = [c.values[c.steps >= start] for c in known if c.steps[-1] >= start]
    levels = [x for x in reference_losses(facts) if x is not None]
    low = min([float(np.quantile(part, 0.002)) for part in settled] + levels)
    high = max([float(np.quantile(part, 0.995)) for part in settled] + levels)
    margin = max(high - low, 0.1, 0.01 * abs(high))
    return low - 0.1 * margin, high + 0.12 * margin


def perplexity_of(loss: float) -> float:
    """The perplexity of a loss [nats/token], kept finite so that a run that diverged can still be drawn."""
    return float(np.exp(np.clip(loss, -50, 300)))


def reference_losses(facts: RunFacts) -> tuple[float | None, float | None]:
    """The unigram model's loss and the floor [nats/token], where known."""
    return finite(dig(facts.result, "unigram.loss")), finite(dig(facts.result, "floor.loss"))
