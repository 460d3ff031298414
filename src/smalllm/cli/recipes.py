"""`smalllm recipes [NAME]`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from smalllm.cli.options import parse
from smalllm.recipes import recipe_names, recipe_text


@dataclass(frozen=True)
class Options:
    """List the recipes, or print one as TOML: a start for your own."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Recipe to print."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="recipes")
    if options.name:
        print(recipe_text(options.name), end="")
        return 0
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        first_comment = recipe_text(name).splitlines()[0].removeprefix("# ")
        print(f"{name:<{width}}  {first_comment}")
    return 0
