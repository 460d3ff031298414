"""The plots of a run as PNG files. What they show is in `draw`."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smalllm.reporting.draw import PLOTS, figure_of
from smalllm.reporting.facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_IN = (9.0, 4.8)
PNG_DPI = 200


def write_plots(facts: RunFacts, folder: Path) -> list[Path]:
    """Draw {loss,perplexity,learning_rate,grad_norm,tokens_per_second}.png, 1,800 pixels wide.

    Args:
        facts: the run.
        folder: where the pictures go; made if it is not there.

    Returns:
        The files written; a metric without a single finite value has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for plot in PLOTS:
        path = folder / f"{plot.name}.png"
        with settings():
            figure = figure_of(plot, facts, size_in=PNG_IN)
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier run in the same place
                continue
            save(figure, path)
        written.append(path)
    return written


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, so that a reader sees the old picture or the new, never a part."""
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=PNG_DPI)
    os.replace(partial, path)


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's own defaults, whatever a matplotlibrc says; the settings in force come back afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 10.5, "text.parse_math": False})  # a $ in a name is a $
        # a run may be called anything; letters the font lacks become boxes, not warnings
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
