#!/usr/bin/env python3
"""Run docs/tour.py and write docs/tour.ipynb, with what its cells print and show.

The cells are marked in the source by `# %%` and `# %% [markdown]`, as editors know it. A test runs the cells, and fails
while the notebook has others. Run it after changing the tour, or what its pictures look like: half a minute.
"""

import ast
import base64
import contextlib
import io
import json
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
SOURCE, NOTEBOOK = DOCS / "tour.py", DOCS / "tour.ipynb"
PICTURE_WIDTH = 860
PICTURE_COLOURS = 64

Output = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of the source: Python, or Markdown without its comment signs."""

    kind: str
    text: str


def read_cells(source: str) -> list[Cell]:
    """The cells; what stands before the first is not of the notebook."""
    _, *parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    cells = []
    for mark, body in zip(parts[::2], parts[1::2], strict=True):
        if mark.strip() == "[markdown]":
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        cells.append(Cell("markdown" if mark.strip() else "code", body.strip("\n")))
    return cells


def run_cells(cells: Sequence[Cell], folder: Path) -> tuple[list[list[Output]], dict[str, Any]]:
    """Run the Python cells one after the other in a folder, as a notebook does.

    Returns:
        The outputs of each cell, and all names at the end.

    Raises:
        RuntimeError: a cell failed; the message has its number, and where it failed.
    """
    names: dict[str, Any] = {"__name__": "tour"}
    outputs = []
    with contextlib.chdir(folder):
        for number, cell in enumerate(cells, start=1):
            try:
                outputs.append(_run_cell(cell, names, f"cell {number}") if cell.kind == "code" else [])
            except Exception as error:
                raise RuntimeError(f"cell {number} failed:\n{traceback.format_exc(limit=-3)}") from error
    return outputs, names


def _run_cell(cell: Cell, names: dict[str, Any], where: str) -> list[Output]:
    body, last = ast.parse(cell.text).body, None
    if body and isinstance(body[-1], ast.Expr):
        last = ast.Expression(body.pop().value)
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(ast.Module(body, type_ignores=[]), where, "exec"), names)
        if last is not None:
            value = eval(compile(last, where, "eval"), names)
    outputs: list[Output] = []
    if said.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(said.getvalue())})
    if value is not None:
        is_picture = hasattr(value, "_repr_png_")
        shown = {"image/png": _small(value._repr_png_())} if is_picture else {"text/plain": _lines(repr(value))}
        outputs.append({"data": shown, "metadata": {}, "output_type": "display_data"})
    return outputs


def _small(png: bytes) -> str:
    """A picture of less width and few colours, so that the notebook stays small."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((PICTURE_WIDTH, 10_000), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.quantize(PICTURE_COLOURS, dither=Image.Dither.NONE).save(written, format="png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def make_notebook(cells: Sequence[Cell], outputs: Sequence[list[Output]]) -> str:
    """The notebook's text (nbformat 4.5)."""
    made, n_code = [], 0
    for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True)):
        entry: dict[str, Any] = {
            "cell_type": cell.kind, "id": f"cell-{number:02d}", "metadata": {}, "source": _lines(cell.text)
        }  # fmt: skip
        if cell.kind == "code":
            n_code += 1
            entry |= {"execution_count": n_code, "outputs": shown}
        made.append(entry)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def cells_of(notebook: str) -> list[tuple[Cell, list[Output]]]:
    """The cells of a notebook's text, each with its outputs."""
    entries = json.loads(notebook)["cells"]
    return [(Cell(one["cell_type"], "".join(one["source"])), one.get("outputs", [])) for one in entries]


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> int:
    """Write the notebook; of another source into another file where two paths are given."""
    source, target = map(Path, sys.argv[1:]) if sys.argv[1:] else (SOURCE, NOTEBOOK)
    cells = read_cells(source.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="smalllm-tour-") as folder:
        outputs, _ = run_cells(cells, Path(folder))
    text = make_notebook(cells, outputs)
    target.write_text(text, encoding="utf-8")
    print(f"{target}: {len(cells)} cells, {len(text.encode()) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    sys.exit(main())
