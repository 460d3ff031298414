"""The five curves of a run, drawn with matplotlib's object interface: no pyplot, no window, no files.

Colours are from the Okabe-Ito palette, which people with any colour vision can tell apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smalllm.reporting.facts import (
    Curve,
    RunFacts,
    bucket_medians,
    curve,
    dig,
    loss_limits,
    perplexity_of,
    reference_losses,
    smooth,
    thin,
)
from smalllm.reporting.words import count, finite, number, rate, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 2_000
MAX_EVENTS = 200
COLOURS = {  # the page has the same on a light screen
    "ink": "#20242c",
    "muted": "#667080",
    "grid": "#e3e6eb",
    "paper": "#ffffff",
    "raw": "#93c0dc",
    "train": "#0072b2",
    "val": "#d55e00",
    "floor": "#007a5a",
    "event": "#a8005c",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: its file name, its title, its vertical axis with the unit, and what draws the curves."""

    name: str
    title: str
    y_label: str
    draw: "Callable[[Axes, RunFacts], None]"


def figure_of(plot: Plot, facts: RunFacts, *, size_in: tuple[float, float]) -> "Figure | None":
    """Draw one plot, or None if the run has no finite value to show.

    Args:
        plot: one of `PLOTS`.
        facts: the run.
        size_in: width and height of the figure [inches].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = figure.add_subplot()
    plot.draw(axes, facts)
    if not axes.has_data():
        return None
    frame(axes)
    step_axis(axes, [facts])
    _events(axes, facts)
    axes.set_ylabel(plot.y_label, color=COLOURS["muted"])
    finish(axes, f"{plot.title} · {facts.recipe} · {facts.name}")
    return figure


def _draw_loss(axes: "Axes", facts: RunFacts) -> None:
    limits = loss_limits(facts)
    if limits is None:
        return
    losses = curve(facts.train, "loss")
    _line(axes, losses, "raw", label="training", width=1.0)
    _line(axes, smooth(losses), "train", label="training, smoothed")
    _points(axes, curve(facts.val, "loss"))
    unigram, floor = reference_losses(facts)
    _level(axes, unigram, f"unigram model {number(unigram)}")
    _level(axes, floor, f"floor {number(floor)}", role="floor", above=False)
    axes.set_ylim(*limits)


def _draw_perplexity(axes: "Axes", facts: RunFacts) -> None:
    limits = loss_limits(facts)
    if limits is None:
        return
    _line(axes, _perplexity(smooth(curve(facts.train, "loss"))), "train", label="training, smoothed")
    _points(axes, _perplexity(curve(facts.val, "loss")))
    for loss, name, role in zip(reference_losses(facts), ("unigram model", "floor"), ("muted", "floor"), strict=True):
        if loss is not None:
            value = perplexity_of(loss)
            _level(axes, value, f"{name} {number(value)}", role=role, above=name != "floor")
    _log_axis(axes, perplexity_of(limits[0]), perplexity_of(limits[1]))


def _draw_learning_rate(axes: "Axes", facts: RunFacts) -> None:
    from matplotlib.ticker import FuncFormatter

    rates = curve(facts.train, "lr")
    _line(axes, rates, "train")
    if len(rates):
        axes.set_ylim(0, 1.08 * float(rates.values.max()) or 1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: scientific(y)))


def _draw_grad_norm(axes: "Axes", facts: RunFacts) -> None:
    norms = curve(facts.train, "grad_norm")
    if not len(norms):
        return
    _line(axes, norms, "raw", label="logged steps", width=1.0)
    _line(axes, bucket_medians(norms, n_buckets=min(60, 1 + len(norms) // 8)), "train", label="running median")
    clip = finite(dig(facts.config, "optim.clip_norm")) or None
    _level(axes, clip, f"clipped to {clip or 0:g}", role="val")
    shown = np.append(norms.values, clip) if clip else norms.values
    low, high = float(np.quantile(norms.values, 0.01)), float(shown.max())
    if low > 0 and high > 8 * low:  # spikes of a hundred times the usual norm are common
        positive = shown[shown > 0]
        _log_axis(axes, float(positive.min()) / 1.3, high * 1.5)
    else:
        axes.set_ylim(0, 1.15 * high or 1)


def _draw_tokens_per_second(axes: "Axes", facts: RunFacts) -> None:
    from matplotlib.ticker import FuncFormatter

    speeds = curve(facts.train, "tokens_per_second")
    if not len(speeds):
        return
    _line(axes, speeds, "raw", label="since the last logged step", width=1.0)
    median = float(np.median(speeds.values))
    axes.axhline(median, color=COLOURS["train"], linewidth=1.5, linestyle=(0, (5, 3)), label=f"median {rate(median)}")
    axes.set_ylim(0, 1.12 * float(speeds.values.max()) or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: rate(y)))


PLOTS = (
    Plot("loss", "Loss", "loss [nats per token]", _draw_loss),
    Plot("perplexity", "Perplexity", "perplexity [tokens]", _draw_perplexity),
    Plot("learning_rate", "Learning rate", "learning rate", _draw_learning_rate),
    Plot("grad_norm", "Gradient norm", "norm before clipping", _draw_grad_norm),
    Plot("tokens_per_second", "Training speed", "tokens per second", _draw_tokens_per_second),
)


def _perplexity(losses: Curve) -> Curve:
    return Curve(losses.steps, np.exp(np.clip(losses.values, -50, 300)))


def _line(axes: "Axes", whole: Curve, role: str, *, label: str | None = None, width: float = 1.8) -> None:
    if len(whole):
        few = thin(whole, max_points=MAX_POINTS)
        marker = "o" if len(few) < 3 else None  # one point alone draws no line
        axes.plot(
            few.steps,
            few.values,
            color=COLOURS[role],
            linewidth=width,
            marker=marker,
            markersize=4,
            label=label,
        )


def _points(axes: "Axes", whole: Curve) -> None:
    if len(whole):
        few = thin(whole, max_points=200)
        axes.plot(
            few.steps, few.values, color=COLOURS["val"], linewidth=1.2, label="validation", zorder=4,
            marker="o" if len(few) <= 60 else None, markersize=4 if len(few) <= 30 else 3, markeredgewidth=0,
        )  # fmt: skip


def _level(axes: "Axes", value: float | None, text: str, *, role: str = "muted", above: bool = True) -> None:
    """A dashed horizontal line with its name at the right end, above or below it."""
    if value is None:
        return
    axes.axhline(value, color=COLOURS[role], linewidth=1.3, linestyle=(0, (5, 3)), zorder=3)
    axes.annotate(
        text, xy=(1, value), xycoords=("axes fraction", "data"), xytext=(0, 3 if above else -3),
        textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=9.5, zorder=5,
        color=COLOURS[role], bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _log_axis(axes: "Axes", low: float, high: float) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers, and never fewer than a few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    high = max(high, 1.1 * low)  # a run that diverged has both at the end of the scale
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    if decades < 0.7:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}" if 1e-3 <= y < 1e6 else scientific(y)))


def frame(axes: "Axes") -> None:
    """The look that all our plots share: one line at the bottom, a faint grid behind, muted numbers."""
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.tick_params(which="both", colors=COLOURS["muted"], length=0)
    axes.tick_params(axis="x", length=3)
    axes.grid(color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)


def step_axis(axes: "Axes", runs: Sequence[RunFacts]) -> None:
    """The horizontal axis: steps, and, of a single run, how many tokens they are."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    rows = [row for facts in runs for row in (*facts.train, *facts.val)]
    last = max((finite(row.get("step")) or 0.0 for row in rows), default=0.0)
    tokens = max((finite(row.get("tokens")) or 0.0 for row in rows), default=0.0)
    axes.set_xlim(0, max(last, 1) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
    is_single = len(runs) == 1 and tokens and last
    label = f"step of {count(tokens / last)} tokens ({count(tokens)} in all)" if is_single else "step"
    axes.set_xlabel(label, color=COLOURS["muted"])


def finish(axes: "Axes", title: str) -> None:
    """The legend, where lines have names, and the title above it."""
    has_legend = bool(axes.get_legend_handles_labels()[1])
    if has_legend:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, labelcolor=COLOURS["ink"],
            handlelength=1.4, columnspacing=1.6, borderaxespad=0.2, borderpad=0.2,
        )  # fmt: skip
    axes.set_title(
        title, loc="left", color=COLOURS["ink"], fontsize=12, fontweight="bold", pad=28 if has_legend else 10
    )


def _events(axes: "Axes", facts: RunFacts) -> None:
    """A dotted line where something happened: an update that was refused, a step back to a checkpoint."""
    steps = [step for row in facts.events[-MAX_EVENTS:] if (step := finite(row.get("step"))) is not None]
    for i, step in enumerate(steps):
        label = "event" if i == 0 else None
        axes.axvline(step, color=COLOURS["event"], linewidth=1.0, linestyle=(0, (1, 2)), zorder=2, label=label)
