"""Several runs in one picture: the loss of each, and the bits per byte of its validation text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smalllm.reporting.draw import COLOURS, finish, frame, step_axis
from smalllm.reporting.facts import Curve, RunFacts, curve, labels, loss_limits, smooth, thin
from smalllm.reporting.plots import PNG_IN, save, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 2_000
_MAX_NAME = 48  # characters in the legend
RUN_COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#c0609a", "#b07d00", "#2f9fd8", "#20242c")  # as on the page
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))


def write_overlays(runs: Sequence[RunFacts], folder: Path) -> list[Path]:
    """Draw loss.png (training, smoothed, and validation) and bits_per_byte.png (validation), 1,800 pixels wide.

    Args:
        runs: two or more.
        folder: where the pictures go; made if it is not there.

    Returns:
        The files written; what no run has measured has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key, title, unit in (("loss", "Loss", "nats per token"), ("bits_per_byte", "Bits per byte", "bits per byte")):
        path = folder / f"{key}.png"
        with settings():
            from matplotlib.figure import Figure

            figure = Figure(figsize=PNG_IN)
            figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
            axes = figure.add_subplot()
            _draw(axes, runs, key)
            if not axes.has_data():
                path.unlink(missing_ok=True)
                continue
            frame(axes)
            step_axis(axes, runs)
            axes.set_ylabel(f"{title.lower()} [{unit}]" if unit != title.lower() else unit, color=COLOURS["muted"])
            finish(axes, f"{title} of {len(runs)} runs")
            save(figure, path)
        written.append(path)
    return written


def _draw(axes: "Axes", runs: Sequence[RunFacts], key: str) -> None:
    for i, (name, facts) in enumerate(zip(labels(runs), runs, strict=True)):
        colour, dashes = RUN_COLOURS[i % len(RUN_COLOURS)], _DASHES[i // len(RUN_COLOURS) % len(_DASHES)]
        trained, validated = smooth(curve(facts.train, key)), curve(facts.val, key)
        if len(trained):
            _plot(axes, trained, colour, dashes, _short(name))
        if len(validated):
            _plot(axes, validated, colour, dashes, None if len(trained) else _short(name), marker="o")
    limits = [found for facts in runs if (found := loss_limits(facts)) is not None] if key == "loss" else []
    if limits:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _short(name: str) -> str:
    """A name that leaves room for the curves: two long paths differ somewhere, most often near their ends."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME // 4]}…{name[-(_MAX_NAME * 3 // 4) :]}"


def _plot(
    axes: "Axes", whole: Curve, colour: str, dashes: tuple[float, ...], label: str | None, marker: str | None = None
) -> None:
    few = thin(whole, max_points=MAX_POINTS if marker is None else 60)
    alone = "o" if len(few) < 3 else None  # one point alone draws no line
    axes.plot(
        few.steps, few.values, color=colour, linewidth=1.6 if marker is None else 1.0, label=label,
        marker=marker or alone, markersize=4, markeredgewidth=0, dashes=dashes or (None, None),
    )  # fmt: skip
