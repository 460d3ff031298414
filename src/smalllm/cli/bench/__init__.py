"""`smalllm bench WHAT`: measurements against peers, alternating within one call."""

from collections.abc import Sequence
from importlib import import_module

from smalllm.cli.options import parse, split_recipe
from smalllm.errors import ConfigError

WHAT = {
    "tokenize": "text to token ids: the library itself, smalllm's ways, and prepare whole",
    "train": "RECIPE: updates of a model, and of transformers' on the same shape",
    "evaluate": "RUN: questions of a task, and lm-evaluation-harness on the same weights",
    "generate": "prompts to tokens: smalllm, transformers and, for a run, llama.cpp on the same weights",
    "serve": "RUN: the server with many clients at once, against one alone",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if arguments and arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {text}" for name, text in WHAT.items()]
        print("\n".join(["usage: smalllm bench WHAT [OPTIONS]", "", "what is measured:", *lines]))
        print("\nThe options: smalllm bench WHAT --help")
        return 0
    what = arguments[0] if arguments else "nothing"
    if what not in WHAT:
        raise ConfigError(f"smalllm bench {what}: say what to measure: {', '.join(WHAT)}")
    module, rest, command = import_module(f"smalllm.cli.bench.{what}"), list(arguments[1:]), f"bench {what}"
    if what == "train":
        config, rest, name = split_recipe(rest, command=command)
        return int(module.show(parse(module.Options, rest, command=f"{command} {name}", config=config)))
    return int(module.show(parse(module.Options, rest, command=command)))
