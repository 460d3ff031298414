"""The pictures of an explanation: PNG files, and the curve of loss by position for the page."""

import os
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalllm.reporting.draw import COLOURS, frame
from smalllm.reporting.explain_parts import FULL_BITS, bin_names, shown
from smalllm.reporting.explanation import Explanation
from smalllm.reporting.plots import PNG_DPI, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_TOKENS = 96  # along one axis of a picture
_MAX_WORD = 14
_MAX_ROWS = 13  # of layers, and of heads, in one picture


def write_pictures(found: Explanation, folder: Path) -> None:
    """Draw `surprise`, `logit_lens`, `contributions`, `attention`, `attention_distance`, `head_scores` and
    `position_loss` as PNG, up to 1,800 pixels wide. A picture without numbers is not written, and an old one removed.
    """
    for name, draw in PICTURES.items():
        path = folder / f"{name}.png"
        with settings():
            figure = draw(found)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            partial = path.with_suffix(".partial")
            figure.savefig(partial, format="png", dpi=PNG_DPI, facecolor=COLOURS["paper"])
        os.replace(partial, path)


def position_svg(found: Explanation, *, size_in: tuple[float, float]) -> str:
    """The loss by position as an `<svg>` element."""
    import matplotlib

    with settings():
        # text stays text; ids are derived from the salt, not random
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": f"position {size_in}"})
        return _svg_text(_position_loss(found, size_in=size_in, titled=False), title="Loss by position")


def _figure(width_in: float, height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    return figure


def _map(role: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(role, [COLOURS["paper"], COLOURS[role]])


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, loc="left", color=COLOURS["ink"], fontsize=12, fontweight="bold", pad=10)


def _word(text: str) -> str:
    short = shown(text)
    return short if len(short) <= _MAX_WORD else short[: _MAX_WORD - 1] + "…"


def _bare(axes: "Axes") -> None:
    """No frame and no marks: the picture is a table."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=COLOURS["muted"], length=0)


def _surprise(found: Explanation) -> "Figure":
    tokens = found.tokens[:_MAX_TOKENS]
    figure = _figure(9.0, 3.8)
    axes = figure.add_subplot()
    bits = [token.bits or 0.0 for token in tokens]
    shades = _map("val")(np.clip(np.array(bits) / FULL_BITS, 0.12, 1))
    axes.bar(range(len(tokens)), bits, color=shades, width=0.85)
    frame(axes)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(
        range(len(tokens)), [_word(token.text) for token in tokens], rotation=90, fontsize=min(8.5, 540 / len(tokens))
    )
    axes.set_xlim(-0.7, len(tokens) - 0.3)
    axes.set_ylabel("surprise [bits]", color=COLOURS["muted"])
    _title(axes, f"Surprise by token · {Path(found.run).name} · mean {found.mean_bits:.2f} bits")
    return figure


def _logit_lens(found: Explanation) -> "Figure":
    n, rows = min(len(found.tokens), 16), found.lens
    figure = _figure(9.0, 1.4 + 0.36 * len(rows))
    axes = figure.add_subplot()
    entropies = np.array([[cell.entropy_bits for cell in row[:n]] for row in rows])
    most = float(np.log2(found.vocab_size))
    image = axes.imshow(entropies, cmap=_map("raw").reversed(), vmin=0, vmax=most, aspect="auto")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row[:n]):
            weight = "bold" if cell.is_right else "normal"
            axes.text(x, y, _word(cell.text), ha="center", va="center", fontsize=7, color=COLOURS["ink"], weight=weight)
    _bare(axes)
    axes.set_xticks(range(n), [_word(token.text) for token in found.tokens[:n]], rotation=45, fontsize=8)
    axes.set_yticks(range(len(rows)), ["embedding", *(f"block {i}" for i in range(1, len(rows)))])
    scale = figure.colorbar(image, ax=axes, pad=0.01)
    scale.set_label("entropy [bits]", color=COLOURS["muted"])
    scale.outline.set_visible(False)
    scale.ax.tick_params(colors=COLOURS["muted"], length=0)
    _title(axes, f"Logit lens · {Path(found.run).name} · bold: the token that follows")
    return figure


def _contributions(found: Explanation) -> "Figure":
    names = [part.name for part in found.parts]
    figure = _figure(9.0, 1.3 + 0.26 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    values = [part.effect for part in found.parts]
    left.barh(names, [part.norm for part in found.parts], color=COLOURS["train"], height=0.7)
    right.barh(names, values, color=[COLOURS["val" if v < 0 else "train"] for v in values], height=0.7)
    left.invert_yaxis()
    for axes, label in ((left, "length of what it adds"), (right, "direct effect on the right logit")):
        frame(axes)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label, color=COLOURS["muted"])
    _title(left, f"What each part adds · {Path(found.run).name}")
    return figure


def _attention(found: Explanation) -> "Figure":
    """The first layers and heads, as many as a picture has room for."""
    n_layers, n_heads = min(found.n_layers, _MAX_ROWS), min(found.n_heads, _MAX_ROWS)
    columns = max(n_heads, 3)
    size = min(2.2, 9.0 / columns)
    figure = _figure(max(9.0, size * columns), 0.6 + n_layers * (size + 0.12))
    grid = figure.subplots(n_layers, n_heads, squeeze=False)
    for layer in range(n_layers):
        for head in range(n_heads):
            axes = grid[layer][head]
            axes.imshow(found.maps[layer, head], cmap=_map("train"), vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(COLOURS["grid"])
            axes.set_title(f"head {layer + 1}.{head + 1}", fontsize=8, color=COLOURS["muted"], pad=3)
    title = f"Attention (square root of the weight) · {Path(found.run).name}"
    figure.suptitle(title, x=0.02, ha="left", color=COLOURS["ink"], fontsize=12, fontweight="bold")
    return figure


def _attention_distance(found: Explanation) -> "Figure":
    """A panel per layer, a line per head."""
    n = min(found.n_layers, 12)
    columns = min(n, 3)
    lines = -(-n // columns)
    figure = _figure(9.0, 1.2 + 2.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    names = bin_names(found.distance_bins).replace(" or more", "+").split(", ")
    for layer, axes in enumerate(panels):
        if layer >= n:
            axes.set_visible(False)
            continue
        heads = [head for head in found.heads if head.layer == layer + 1]
        for index, head in enumerate(heads):
            shade = _map("train")(0.35 + 0.65 * (index + 1) / len(heads))
            label = f"head {head.head}: mean {head.distance:.1f}" if len(heads) <= 8 else None
            axes.plot(range(len(names)), head.histogram, color=shade, linewidth=1.6, label=label)
        frame(axes)
        axes.set_xticks(range(len(names)), names, rotation=60, fontsize=8)
        axes.set_title(f"layer {layer + 1}", fontsize=9.5, color=COLOURS["muted"], pad=4)
        if len(heads) <= 8:
            axes.legend(fontsize=7.5, frameon=False, labelcolor=COLOURS["ink"], labelspacing=0.2, handlelength=1.2)
    panels[0].set_ylabel("share of attention", color=COLOURS["muted"])
    figure.supxlabel("distance [tokens]", color=COLOURS["muted"], fontsize=10.5)
    title = f"How far heads look · {Path(found.run).name} · {found.heads_measured_on}"
    figure.suptitle(title, x=0.02, ha="left", color=COLOURS["ink"], fontsize=12, fontweight="bold")
    return figure


def _head_scores(found: Explanation) -> "Figure | None":
    if found.repeated is None:
        return None
    figure = _figure(9.0, min(9.0, 1.5 + 0.4 * found.n_layers))
    panels = figure.subplots(1, 3)
    names = ("previous", "duplicate", "induction")
    for axes, name, title in zip(panels, names, ("previous token", "duplicate token", "induction"), strict=True):
        values = np.array([getattr(head, name) for head in found.heads]).reshape(found.n_layers, found.n_heads)
        axes.imshow(values, cmap=_map("train"), vmin=0, vmax=1, aspect="auto")
        if found.n_heads <= 8 and found.n_layers <= _MAX_ROWS:
            for (y, x), value in np.ndenumerate(values):
                colour = COLOURS["paper" if value > 0.6 else "ink"]
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=colour)
        _bare(axes)
        axes.set_xticks(range(found.n_heads), [str(i + 1) for i in range(found.n_heads)], fontsize=8)
        axes.set_yticks(range(found.n_layers), [str(i + 1) for i in range(found.n_layers)], fontsize=8)
        axes.set_xlabel("head", color=COLOURS["muted"])
        axes.set_title(title, fontsize=9.5, color=COLOURS["muted"], pad=4)
    panels[0].set_ylabel("layer", color=COLOURS["muted"])
    title = f"Scores on repeated random tokens · {Path(found.run).name}"
    figure.suptitle(title, x=0.02, ha="left", color=COLOURS["ink"], fontsize=12, fontweight="bold")
    return figure


def _position_loss(found: Explanation, *, size_in: tuple[float, float] = (9.0, 4.2), titled: bool = True) -> "Figure":
    figure = _figure(*size_in)
    axes = figure.add_subplot()
    rows = found.loss_by_position
    places = [(first * last) ** 0.5 for first, last, _ in rows]
    axes.set_xscale("log", base=2)
    axes.plot(places, [loss for *_, loss in rows], color=COLOURS["train"], linewidth=1.8, marker="o", markersize=5)
    frame(axes)
    names = [f"{first}" if first == last else f"{first}–{last}" for first, last, _ in rows]
    axes.set_xticks(places, names, fontsize=9.5 if len(rows) < 9 else 8)
    axes.minorticks_off()
    axes.set_xlabel("tokens seen before", color=COLOURS["muted"])
    axes.set_ylabel("loss [nats per token]", color=COLOURS["muted"])
    if titled:
        _title(axes, f"Loss by position · {Path(found.run).name} · {found.loss_measured_on}")
    return figure


PICTURES: dict[str, Callable[[Explanation], "Figure | None"]] = {
    "surprise": _surprise,
    "logit_lens": _logit_lens,
    "contributions": _contributions,
    "attention": _attention,
    "attention_distance": _attention_distance,
    "head_scores": _head_scores,
    "position_loss": _position_loss,
}


def _svg_text(figure: "Figure", *, title: str) -> str:
    """A figure as an `<svg>` element that suits the page.

    Args:
        figure: with colours from `draw.COLOURS` only.
        title: for readers who do not see it.
    """
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{title}">', svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--plot-{role})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
