"""Imports go down only: each part knows what is below it, parts of one floor do not know each other, and facts and
faces do without torch. Importing a module does nothing that can be seen.
"""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalllm

SOURCE = Path(smalllm.__file__).parent
FLOORS = (
    ("__init__", "errors", "protocols", "config", "problems", "recipes", "rundir"),
    ("runtime", "compiler", "sharded", "tokenizers", "data", "model", "optim"),
    ("checkpoint", "checkpoint_manifest", "run"),
    ("training", "evaluation", "generation", "xray", "interop", "planning", "reporting", "tracking"),
    ("api",),
    ("serving",),
    ("cli", "__main__"),
)
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}
TORCHLESS = {*FLOORS[0], "reporting", "cli"}


def modules() -> dict[str, Path]:
    """Dotted names of all modules of the package and their files."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(module: str) -> str:
    """The file or folder directly in the package that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def imported_modules(source: str, *, module: str) -> Iterator[str]:
    """Every module that a source text imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not used here"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                is_module = node.module == "smalllm" and alias.name in FLOOR_OF
                yield below if is_module else str(node.module)


def broken_rules(source: str, *, module: str, is_folder: bool) -> list[str]:
    """What a module imports that its place does not allow."""
    part, broken = part_of(module), []
    for name in imported_modules(source, module=module):
        if name.split(".")[0] == "torch" and part in TORCHLESS:
            broken.append(f"{module} must not import torch")
        if name.split(".")[0] != "smalllm" or part_of(name) in (part, "__init__"):
            continue
        other = part_of(name)
        if FLOOR_OF[other] > FLOOR_OF[part]:
            broken.append(f"{module} on floor {FLOOR_OF[part]} imports {name} above it")
        elif FLOOR_OF[other] == FLOOR_OF[part] and is_folder and (SOURCE / other).is_dir():
            broken.append(f"{module} imports {name}, a folder of its own floor")
    return broken


def test_every_part_has_a_floor() -> None:
    assert {part_of(module) for module in modules()} <= FLOOR_OF.keys()


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    is_folder = (SOURCE / part_of(module)).is_dir()
    assert broken_rules(modules()[module].read_text(encoding="utf-8"), module=module, is_folder=is_folder) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("smalllm.model.gpt", "from smalllm.training.step import train_step", "above it"),
        ("smalllm.model.gpt", "def f():\n    from smalllm import run", "above it"),
        ("smalllm.model.gpt", "import smalllm.optim.schedule", "of its own floor"),
        ("smalllm.training.loop", "from smalllm.evaluation.loss import Score", "of its own floor"),
        ("smalllm.config", "if True:\n    import torch.nn as nn", "must not import torch"),
        ("smalllm.reporting.page", "from torch import Tensor", "must not import torch"),
        ("smalllm.errors", "from smalllm.runtime import autocast", "above it"),
    ],
)
def test_an_import_that_breaks_the_rules_is_found(module: str, source: str, problem: str) -> None:
    (found,) = broken_rules(source, module=module, is_folder=True)
    assert problem in found


def test_imports_that_keep_the_rules_are_allowed() -> None:
    source = (
        "import torchvision\nfrom smalllm import __version__, runtime\nfrom smalllm.model.gpt import GPT\nimport os"
    )
    assert broken_rules(source, module="smalllm.generation.engine", is_folder=True) == []


# --- what happens when a module is imported


def import_in_a_new_process(names: list[str], then: str = "") -> subprocess.CompletedProcess[str]:
    program = "\n".join(["import importlib, sys", *(f"importlib.import_module({name!r})" for name in names), then])
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)


def test_importing_every_module_shows_nothing() -> None:
    done = import_in_a_new_process(list(modules()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_facts_reports_and_commands_load_no_torch() -> None:
    names = [module for module in modules() if part_of(module) in TORCHLESS]
    assert {"smalllm", "smalllm.recipes.resolve", "smalllm.reporting.plots", "smalllm.cli.train"} <= set(names)
    done = import_in_a_new_process(names, then="print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
    with_model = import_in_a_new_process(["smalllm.model.gpt"], then="print('torch' in sys.modules)")
    assert with_model.stdout == "True\n"


def test_public_names_are_there() -> None:
    assert set(smalllm.__all__) <= set(dir(smalllm))
    for name in smalllm.__all__:
        assert callable(getattr(smalllm, name))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = smalllm.trian
    assert importlib.util.find_spec("smalllm.__main__") is not None
