"""`find_lr`: a learning-rate range test on a recipe's own data, model and optimizer. It trains, and leaves no run."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smalllm.api.batches import make_batches
from smalllm.api.data import data_path, prepare_command
from smalllm.api.fitting import shrinker
from smalllm.api.runs import open_sitting
from smalllm.api.sitting import Sitting
from smalllm.config import RunConfig
from smalllm.data.manifest import MANIFEST_NAME
from smalllm.errors import ConfigError, DataError
from smalllm.problems import check
from smalllm.protocols import Progress, Silent
from smalllm.recipes import override
from smalllm.reporting.lr_plot import write_lr_plot
from smalllm.rundir import RunDir, write_json
from smalllm.training.lr_finder import RangeTest, rising_rates, run_range_test, suggest

MIN_STEPS = 20


def find_lr(
    config: RunConfig,
    *,
    out: Path | None = None,
    steps: int = 100,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    changes: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train for some updates while the learning rate rises from `min_lr` to `max_lr`, and suggest one.

    `min_lr` and `max_lr` are those of `optim.lr`. With Muon, `optim.muon_lr` rises in proportion: both are their
    configured values times the same number. Schedule and warmup play no part. Neither runs nor data are changed.

    Args:
        config: what would be trained, the user's changes included.
        out: where `find_lr.json` and `find_lr.png` go; absent: `find-lr/RECIPE`.
        steps: updates, one per rate.
        min_lr: of the first update.
        max_lr: of the last update, unless the loss runs away before.
        changes: the dotted fields of `config` that the user asked for.
        name: the recipe's name or path, for the command that an error names; absent: `config.recipe`.
        progress: who is told how it goes.

    Returns:
        What `find_lr.json` holds: `lr` (None where the test does not say) and `muon_lr`, `lowest_lr`, `steepest_lr`,
        `reason`, `stopped`, and `rates`, `losses` and `smoothed` of the updates.

    Raises:
        ConfigError: the configuration, the number of steps or the rates cannot be, or nothing can be written in `out`.
        DataError, TokenizerError, CheckpointError, DeviceMemoryError: see `errors`.
    """
    _check(config, steps=steps, min_lr=min_lr, max_lr=max_lr)
    progress, name, out = progress or Silent(), name or config.recipe, out or Path("find-lr") / config.recipe
    config = check(_short(config, steps))
    if config.data.mode == "stream" and not (data_path(config) / MANIFEST_NAME).exists():
        raise DataError(f"{data_path(config)}: no data here; run first: {prepare_command(config, name=name)}")
    with tempfile.TemporaryDirectory(prefix="smalllm-find-lr-") as folder:
        run = RunDir(Path(folder))
        sitting = open_sitting(run, config, changes=changes or {}, name=name, progress=progress)
        try:
            _make(out)
            measured = _measure(sitting, rising_rates(min_lr, max_lr, steps=steps), progress)
        finally:
            if sitting.feed is not None:
                sitting.feed.feed.close()
    facts = _facts(sitting.config, measured)
    write_json(out / "find_lr.json", facts)
    write_lr_plot(facts, out / "find_lr.png")
    return facts


def _check(config: RunConfig, *, steps: int, min_lr: float, max_lr: float) -> None:
    wrong = []
    if steps < MIN_STEPS:
        wrong.append(f"--steps {steps}: must be at least {MIN_STEPS}")
    if not (math.isfinite(max_lr) and 0 < min_lr < max_lr):
        wrong.append(f"--min-lr {min_lr:g} and --max-lr {max_lr:g}: must be finite and more than 0, the first smaller")
    if config.optim.lr == 0:
        wrong.append("optim.lr = 0: must be more than 0; all rates rise in proportion to it")
    if wrong:
        raise ConfigError(wrong)


def _short(config: RunConfig, steps: int) -> RunConfig:
    """The configuration for some updates, without what belongs to a whole run."""
    other_lengths = dict.fromkeys(["train.max_tokens", "train.max_epochs", "train.max_minutes", "optim.warmup_steps"])
    short = {"train.max_steps": steps, "optim.warmup_fraction": 0.0, "train.overfit_one_batch": False}
    return override(config, {**other_lengths, **short, "eval.tasks": (), "track.trackers": ()})


def _make(out: Path) -> None:
    """Make the directory of the results, before they are measured.

    Raises:
        ConfigError: it cannot be made, or cannot be written in.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written in ({error.strerror}); choose another --out") from error


def _measure(sitting: Sitting, rates: list[float], progress: Progress) -> RangeTest:
    config = sitting.config
    progress.begin(f"finding a rate for {config.recipe}", total=len(rates))
    try:
        return run_range_test(
            sitting.model,
            sitting.optimizers,
            # anew each time: the micro-batch may have shrunk
            lambda cursor: make_batches(sitting.config, sitting.windows, sitting.feed, sitting.ranks)(cursor),
            sitting.loss_function,
            rates=rates,
            peak_lr=config.optim.lr,
            n_windows=config.train.tokens_per_step // config.model.context_length,
            seed=config.train.seed,
            clip_norm=config.optim.clip_norm,
            is_scaled=config.train.precision == "fp16",
            shrink=shrinker(sitting, progress),
            on_step=lambda step, loss: progress.advance(step, f"loss {loss:.3f}"),
        )
    finally:
        progress.end()


def _facts(config: RunConfig, measured: RangeTest) -> dict[str, Any]:
    found = suggest(measured)
    facts: dict[str, Any] = {"recipe": config.recipe, "optimizer": config.optim.kind, **asdict(found)}
    if config.optim.kind == "muon":
        ratio = config.optim.muon_lr / config.optim.lr
        facts["muon_lr"] = None if found.lr is None else float(f"{found.lr * ratio:.2g}")
        facts["muon_lr_per_lr"] = ratio
    return {**facts, "configured_lr": config.optim.lr, **asdict(measured)}
