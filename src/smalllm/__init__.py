"""smalllm trains a small GPT from scratch on the machine you have, in the time you have, and shows that it is right.

Each command of the command line is a function here: `smalllm.prepare(smalllm.load_recipe("stories"))`. They are
imported when first used, so that `import smalllm` is quick.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "evaluate",
    "explain",
    "export",
    "find_lr",
    "generate",
    "generate_many",
    "import_model",
    "inspect",
    "load_recipe",
    "load_run",
    "merge_parts",
    "open_decoder",
    "override",
    "plan",
    "prepare",
    "quickstart",
    "recipe_names",
    "report",
    "serve",
    "shard_writer",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'smalllm' has no attribute {name!r}")
    return getattr(importlib.import_module("smalllm.serving" if name == "serve" else "smalllm.api"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
