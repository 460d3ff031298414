"""`quickstart`: the whole job in minutes, offline. Stories, tokenizer, shards, a model sized for the machine,
training, evaluation against the floor, report.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from smalllm import runtime
from smalllm.api.preparation import prepare
from smalllm.api.runs import train
from smalllm.config import RunConfig
from smalllm.errors import ConfigError, RunError
from smalllm.planning.sizes import measure_speed, size_for
from smalllm.protocols import Progress, Silent
from smalllm.recipes import load_recipe, override
from smalllm.reporting.words import shell
from smalllm.rundir import RunDir
from smalllm.training.step import make_loss_function

_STORIES_PER_MINUTE = 20_000
_MIN_STORIES, _MAX_STORIES = 20_000, 400_000


def quickstart(*, minutes: float = 3.0, out: Path | None = None, progress: Progress | None = None) -> Mapping[str, Any]:
    """Train a story teller on this machine in the given time and show how good it is.

    Run again with the same `out`, it continues an interrupted run, or returns the result of a finished one.

    Args:
        minutes: of training, compilation included.
        out: the run directory; absent: `runs/quickstart`.
        progress: who is told how it goes.

    Returns:
        What `result.json` holds.

    Raises:
        ConfigError: `minutes` is not positive.
        RunError: `out` holds a run of other minutes.
    """
    if not 0 < minutes < 1e6:
        raise ConfigError(f"minutes = {minutes}: must be more than 0")
    out, progress = out or Path("runs/quickstart"), progress or Silent()
    check_minutes(out, minutes)
    n_stories = round(min(_MAX_STORIES, max(_MIN_STORIES, minutes * _STORIES_PER_MINUTE)))
    data = Path(f"data/stories-{n_stories}")
    config = override(load_recipe("stories"), {"data.stories": n_stories, "data.path": str(data)})
    prepare(config, out=data, progress=progress)
    if not RunDir(out).config.exists():
        vocab_size = config.tokenizer.vocab_size or 0
        speed = _speed(config, vocab_size=vocab_size)
        size = size_for(config.model, vocab_size=vocab_size, speed_flops=speed, seconds=60 * minutes)
        progress.say(
            f"this machine trains at about {speed / 1e9:,.0f} GFLOP/s: a model of {size.n_layers} layers, "
            f"width {size.d_model}, for {minutes:g} minutes"
        )
        config = replace(config, model=size.of(config.model))
        config = override(config, {"train.max_steps": None, "train.max_minutes": float(minutes)})
    return train(config, out=out, resume=True, progress=progress)


def check_minutes(out: Path, minutes: float) -> None:
    """Make sure that a run in `out` is one of so many minutes.

    Raises:
        RunError: it is another one.
    """
    stored = RunDir(out).config
    if not stored.exists() or (found := load_recipe(str(stored)).train.max_minutes) == minutes:
        return
    command = shell(["smalllm", "quickstart", "--minutes", f"{minutes:g}", "--out", f"{out}-{minutes:g}"])
    its = "another run" if found is None else f"a run of {found:g} minutes, which goes on with --minutes {found:g}"
    raise RunError(f"{out}: holds {its}. For one of {minutes:g} minutes:\n  {command}")


def _speed(config: RunConfig, *, vocab_size: int) -> float:
    """How fast this machine trains the recipe's model, uncompiled [FLOP/s]."""
    device = runtime.pick_device("auto")
    precision = runtime.pick_precision("auto", device)
    runtime.configure(threads=runtime.n_physical_cores(), precision=precision)
    loss_function = make_loss_function(device, precision, compile_it=False)
    return measure_speed(config.model, loss_function, vocab_size=vocab_size, device=device)
