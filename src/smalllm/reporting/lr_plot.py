"""The picture of a learning-rate range test: the loss over the rate, and where it fell, turned and broke."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalllm.reporting.draw import COLOURS, finish, frame
from smalllm.reporting.plots import PNG_IN, save, settings
from smalllm.reporting.words import finite, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADROOM = 0.6  # of the fall, shown above the highest value before the lowest point


def write_lr_plot(facts: Mapping[str, Any], path: Path) -> None:
    """Draw what `find_lr` measured.

    Args:
        facts: what `find_lr.json` holds.
        path: the PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with settings():
        figure = Figure(figsize=PNG_IN)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
        axes = figure.add_subplot()
        rates = np.array(facts["rates"], dtype=float)
        axes.set_xscale("log")
        axes.plot(rates, facts["losses"], color=COLOURS["raw"], linewidth=1.0, label="training")
        axes.plot(rates, facts["smoothed"], color=COLOURS["train"], linewidth=1.8, label="training, smoothed")
        _set_limits(axes, facts)
        frame(axes)
        axes.xaxis.set_major_locator(LogLocator(numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: scientific(x)))
        _mark(axes, facts)
        axes.set_xlabel(_rate_name(facts), color=COLOURS["muted"])
        axes.set_ylabel("loss [nats per token]", color=COLOURS["muted"])
        finish(axes, f"Learning-rate range test · {facts['recipe']} · {_verdict(facts)}")
        save(figure, path)


def _verdict(facts: Mapping[str, Any]) -> str:
    return "no suggestion" if facts["lr"] is None else f"suggests {scientific(facts['lr'])}"


def _rate_name(facts: Mapping[str, Any]) -> str:
    ratio = finite(facts.get("muon_lr_per_lr"))
    return "optim.lr" if ratio is None else f"optim.lr (optim.muon_lr is {ratio:.3g} times that)"


def _set_limits(axes: "Axes", facts: Mapping[str, Any]) -> None:
    """Show the fall; a loss that runs away leaves at the top."""
    smoothed = np.array(facts["smoothed"], dtype=float)
    if not len(smoothed):
        return
    until = int(smoothed.argmin()) + 1
    before = np.concatenate([smoothed[:until], np.array(facts["losses"][:until], dtype=float)])
    low, high = float(before.min()), float(before.max())
    fall = max(high - low, 0.05 * abs(high), 1e-3)
    axes.set_ylim(low - 0.15 * fall, min(float(max(facts["losses"])) + 0.1 * fall, high + _HEADROOM * fall))


def _is_suggested(rate: float, facts: Mapping[str, Any]) -> bool:
    """Whether a rate is the suggested one but for rounding: one line says enough."""
    lr = finite(facts.get("lr"))
    return lr is not None and abs(rate / lr - 1) < 0.06


def _suggested_word(facts: Mapping[str, Any]) -> str:
    steepest = finite(facts.get("steepest_lr"))
    return "steepest fall, suggested" if steepest is not None and _is_suggested(steepest, facts) else "suggested"


def _mark(axes: "Axes", facts: Mapping[str, Any]) -> None:
    """Vertical lines with their names beside them, at three heights so that names do not collide."""
    marks = (
        ("lr", _suggested_word(facts), "floor", 0.97),
        ("steepest_lr", "steepest", "muted", 0.14),
        ("lowest_lr", "lowest", "val", 0.06),
    )
    for key, word, role, height in marks:
        value = finite(facts.get(key))
        if value is None or (key == "steepest_lr" and _is_suggested(value, facts)):
            continue
        axes.axvline(value, color=COLOURS[role], linewidth=1.3, linestyle=(0, (5, 3)), zorder=3)
        axes.annotate(
            f"{word} {scientific(value)}", xy=(value, height), xycoords=("data", "axes fraction"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="center", fontsize=9.5, color=COLOURS[role], zorder=5,
            bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
