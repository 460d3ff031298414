"""One picture of a data set: how long its documents are, and which tokens are most frequent."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalllm.reporting.draw import COLOURS, frame
from smalllm.reporting.plots import PNG_DPI, settings
from smalllm.reporting.words import count, printable, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROLES = {"train": "train", "val": "val"}
_LABELS = {"train": "training", "val": "validation"}
_TALLEST = 16  # top tokens shown


def write_data_plot(facts: Mapping[str, Any], path: Path) -> None:
    """Draw what `inspect` found: document lengths, where they are known, beside the most frequent tokens.

    Args:
        facts: what `smalllm inspect --json` prints.
        path: the PNG file; its folder is made if absent.
    """
    from matplotlib.figure import Figure

    splits: dict[str, Any] = facts["splits"]
    lengths = {name: split["sample"]["document_tokens"] for name, split in splits.items() if _has_lengths(split)}
    with settings():
        figure = Figure(figsize=(11.0 if lengths else 6.5, 4.8))
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
        panels = figure.subplots(1, 2 if lengths else 1, squeeze=False)[0]
        if lengths:
            _draw_lengths(panels[0], lengths)
        _draw_top_tokens(panels[-1], splits, eos_id=facts.get("tokenizer", {}).get("eos_id"))
        figure.suptitle(_title(facts), x=0.01, ha="left", color=COLOURS["ink"], fontsize=12, fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        figure.savefig(partial, format="png", dpi=PNG_DPI)
    os.replace(partial, path)


def _has_lengths(split: Mapping[str, Any]) -> bool:
    return "document_tokens" in split["sample"]


def _title(facts: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{_LABELS[name]} {count(split['tokens'])} tokens" for name, split in facts["splits"].items())
    return f"{Path(facts['path']).name or facts['path']} · {facts['format']} · {sizes}"


def _draw_lengths(axes: "Axes", lengths: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    edges = np.array(next(iter(lengths.values()))["histogram"]["edges"], dtype=np.float64)
    is_log = edges[-1] - edges[-2] > edges[1] - edges[0]
    widths = np.log2(edges[1:] / edges[:-1]) if is_log else np.ones(len(edges) - 1)
    for name, found in lengths.items():
        documents = np.array(found["histogram"]["documents"], dtype=np.float64)
        heights = documents / documents.sum() / widths
        colour = COLOURS[_ROLES[name]]
        label = f"{_LABELS[name]}, median {count(found['median'])}"
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=label)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.15)
    if is_log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0)
    frame(axes)
    axes.set_xlabel("length of a document [tokens]", color=COLOURS["muted"])
    axes.set_ylabel("share of documents" + (" per doubling" if is_log else ""), color=COLOURS["muted"])
    axes.legend(frameon=False, labelcolor=COLOURS["ink"], handlelength=1.4)


def _draw_top_tokens(axes: "Axes", splits: Mapping[str, Any], *, eos_id: int | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    name = next(iter(splits))
    sample = splits[name]["sample"]
    top = sample["top_tokens"][:_TALLEST]
    places = np.arange(len(top))
    shares = [token["share"] for token in top]
    axes.barh(places, shares, height=0.7, color=COLOURS[_ROLES[name]])
    for place, value in zip(places, shares, strict=True):
        axes.annotate(
            share(value), xy=(value, place), xytext=(4, 0), textcoords="offset points", va="center",
            color=COLOURS["muted"], fontsize=9,
        )  # fmt: skip
    axes.set_yticks(places, [token_label(token, eos_id=eos_id) for token in top])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(shares, default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    frame(axes)
    axes.grid(visible=False)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlabel(f"share of {count(sample['tokens'])} {_LABELS[name]} tokens looked at", color=COLOURS["muted"])
    axes.set_ylabel(
        "most frequent tokens" if "text" in (top or [{}])[0] else "most frequent ids", color=COLOURS["muted"]
    )


def token_label(token: Mapping[str, Any], *, eos_id: int | None) -> str:
    """One of `top_tokens` for the eye: its text in quotes, its id where the tokenizer is not known."""
    if "text" not in token:
        return str(token["id"])
    if token["text"]:
        return f'"{printable(token["text"])[:16]}"'
    return "end of document" if token["id"] == eos_id else f"special {token['id']}"
