"""The verbs of smalllm as functions: what the command line calls and `import smalllm` offers."""

from smalllm.api.cluster import merge_parts, shard_writer
from smalllm.api.evaluation import evaluate
from smalllm.api.explain import explain
from smalllm.api.find_lr import find_lr
from smalllm.api.inspect import inspect_data as inspect
from smalllm.api.interop import export, import_model
from smalllm.api.plan import plan
from smalllm.api.preparation import prepare
from smalllm.api.quickstart import quickstart
from smalllm.api.report import report
from smalllm.api.runs import train
from smalllm.api.text import generate, generate_many, open_decoder
from smalllm.recipes import load_recipe, override, recipe_names
from smalllm.run import load_run

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
    "shard_writer",
    "train",
]
