"""The notebook docs/tour.ipynb: its cells are those of docs/tour.py, they run, and its outputs are of such a run."""

import base64
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from test_docs import ROOT, broken_links

FEWER = {
    '"data.stories": 4_000': '"data.stories": 1_500',
    '"train.max_steps": 150': '"train.max_steps": 12, "train.threads": 1',
    '"eval.every": 25': '"eval.every": 6',
}
FACTS = """
# %%
import json

facts = {
    "loss": loss, "inside": inside.as_dict(), "texts": [text.text for text in texts], "runs": [result, other],
    "probability": probabilities.sum().item(), "difference": globals().get("difference"),
}
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def make_tour() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tour", ROOT / "scripts/make_tour.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source() -> str:
    return (ROOT / "docs/tour.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def notebook() -> str:
    return (ROOT / "docs/tour.ipynb").read_text(encoding="utf-8")


Outputs = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ran(
    make_tour: ModuleType, source: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Outputs], dict[str, Any]]:
    """The outputs of all cells, run with fewer steps in a process of their own, and what they have found."""
    for given, fewer in FEWER.items():
        assert source.count(given) == 1
        source = source.replace(given, fewer)
    folder = tmp_path_factory.mktemp("tour")
    (folder / "tour.py").write_text(source + FACTS, encoding="utf-8")
    words = [sys.executable, "scripts/make_tour.py", str(folder / "tour.py"), str(folder / "tour.ipynb")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outputs = [shown for _, shown in make_tour.cells_of((folder / "tour.ipynb").read_text(encoding="utf-8"))]
    return outputs[:-1], json.loads("".join(outputs[-1][0]["text"]))


def test_the_notebook_has_the_cells_of_the_source(make_tour: ModuleType, source: str, notebook: str) -> None:
    cells = [cell for cell, _ in make_tour.cells_of(notebook)]
    assert cells == make_tour.read_cells(source), "stale; run: python scripts/make_tour.py"
    assert len(cells) > 20 and cells != make_tour.read_cells(source.replace("150", "151"))


def test_every_cell_runs(ran: tuple[list[Outputs], dict[str, Any]]) -> None:
    _, facts = ran
    loss, inside, (muon, adamw) = facts["loss"], facts["inside"], facts["runs"]
    assert loss["floor"]["bits_per_byte"] < loss["bits_per_byte"] < 8 and loss["by_position"] and loss["by_frequency"]
    assert inside["prompt"].startswith("Once upon a time") and len(inside["heads"]) == 8
    assert all(0 <= token["bits"] < 30 for token in inside["tokens"][1:]) and 0 < inside["mean_bits"] < 20
    assert len(facts["texts"]) == 2 and all(facts["texts"])
    assert facts["probability"] == pytest.approx(1, abs=1e-5)
    assert facts["difference"] is None or facts["difference"] < 1e-4
    assert muon["steps"] == adamw["steps"] == 12
    assert muon["val"]["bits_per_byte"] != adamw["val"]["bits_per_byte"]


def test_the_outputs_of_the_notebook_are_of_these_cells(
    make_tour: ModuleType, notebook: str, ran: tuple[list[Outputs], dict[str, Any]]
) -> None:
    """Cell by cell the same kinds, and pictures of the same width; the numbers are its own."""
    outputs, _ = ran
    committed = [shown for _, shown in make_tour.cells_of(notebook)]
    assert [shapes(shown) for shown in committed] == [shapes(shown) for shown in outputs]
    assert sum(shown != [] for shown in committed) >= 10
    assert [shapes(shown) for shown in committed[:-2]] != [shapes(shown) for shown in outputs[2:]]


def shapes(outputs: Outputs) -> list[Any]:
    found: list[Any] = []
    for output in outputs:
        if "data" in output:
            (kind, data), *_ = output["data"].items()
            found.append((kind, Image.open(io.BytesIO(base64.b64decode(data))).width if kind == "image/png" else 0))
        else:
            found.append(output["name"])
    return found


def test_the_notebook_is_small_and_of_nobodys_machine(notebook: str) -> None:
    assert len(notebook.encode()) < 300_000
    assert [word for word in ("/home", "/tmp", "/root", "\\u001b", "Error:", "Warning") if word in notebook] == []


def test_links_of_the_tour_lead_somewhere(make_tour: ModuleType, source: str) -> None:
    text = "\n\n".join(cell.text for cell in make_tour.read_cells(source) if cell.kind == "markdown")
    assert "](metrics.md)" in text and broken_links(text, folder=ROOT / "docs") == []


def test_a_cell_that_fails_is_named(make_tour: ModuleType, tmp_path: Path) -> None:
    cells = make_tour.read_cells("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n\n# %%\nprint(x)\nx / 0\n")
    assert [cell.kind for cell in cells] == ["markdown", "code", "code"] and cells[0].text == "# Title"
    with pytest.raises(RuntimeError, match=r"cell 3 failed:[\s\S]*ZeroDivisionError"):
        make_tour.run_cells(cells, tmp_path)


def test_what_a_cell_shows_is_its_last_value(make_tour: ModuleType, tmp_path: Path) -> None:
    cells = make_tour.read_cells("# %%\nprint('a')\n3 * 4\n\n# %%\ny = 1\n\n# %%\nNone\n")
    outputs, names = make_tour.run_cells(cells, tmp_path)
    assert outputs[0][0]["text"] == ["a\n"] and outputs[0][1]["data"] == {"text/plain": ["12"]}
    assert outputs[1:] == [[], []] and names["y"] == 1
    back = make_tour.cells_of(make_tour.make_notebook(cells, outputs))
    assert back == list(zip(cells, outputs, strict=True))
