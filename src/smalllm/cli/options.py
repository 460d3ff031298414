"""Arguments into dataclasses, with tyro: recipes plus dotted options, and the plain options of a command."""

import dataclasses
import sys
import types
import typing
from collections.abc import Container, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import tyro

from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.recipes import load_recipe, recipe_names

Options = TypeVar("Options")

DottedConfig = Annotated[RunConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def parse(options_type: type[Options], arguments: Sequence[str], *, command: str, **defaults: Any) -> Options:
    """Parse the options of a command; prints help or what is wrong, and exits, like every parser does.

    Args:
        options_type: a dataclass.
        arguments: what follows the command.
        command: its name, for the usage line.
        defaults: fields whose default differs from the dataclass's.
    """
    parsed: Options = tyro.cli(
        options_type,
        default=options_type(**defaults) if defaults else tyro.MISSING_NONPROP,
        args=_python_booleans(arguments),
        prog=f"smalllm {command}",
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return parsed


def split_recipe(arguments: Sequence[str], *, command: str) -> tuple[RunConfig, list[str], str]:
    """Take the leading RECIPE from the arguments.

    Returns:
        Its configuration, the other arguments, and the name as it was given.

    Raises:
        ConfigError: none was given, or it does not exist.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(
            f"usage: smalllm {command} RECIPE [OPTIONS]\n\n"
            f"RECIPE is one of {', '.join(recipe_names())}, or the path of a .toml file.\n"
            f"The options, with the recipe's own values: smalllm {command} RECIPE --help"
        )
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(
            f"no recipe was given; write it first: smalllm {command} RECIPE, where RECIPE is one of "
            f"{', '.join(recipe_names())}, or the path of a .toml file"
        )
    name = arguments[0]
    return load_recipe(name), list(arguments[1:]), name


def given_fields(arguments: Sequence[str], config: RunConfig) -> dict[str, Any]:
    """The dotted fields that the arguments name, with the values that were parsed."""
    found = {}
    for argument in arguments:
        name = argument.split("=", 1)[0].removeprefix("--").replace("-", "_")
        section, _, key = name.partition(".")
        if argument.startswith("--") and key:
            found[name] = getattr(getattr(config, section), key)
    return found


def run_options(arguments: Sequence[str], *, without: Container[str] = ()) -> Iterator[str]:
    """The options of a run among the arguments, each with its values as it was given, but for some dotted fields."""
    is_kept = False
    for argument in arguments:
        if argument.startswith("--"):
            field = argument.removeprefix("--").split("=", 1)[0].replace("-", "_")
            is_kept = "." in field and field not in without
        if is_kept:
            yield argument


def _python_booleans(arguments: Sequence[str]) -> list[str]:
    """`--train.compile true` as tyro wants it, `True`; only after options that take a boolean."""
    booleans = _boolean_fields()
    out: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and _field(name) in booleans and value in ("true", "false"):
            argument = f"{name}={value.capitalize()}"
        elif out and _field(out[-1]) in booleans and argument in ("true", "false"):
            argument = argument.capitalize()
        out.append(argument)
    return out


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _boolean_fields() -> set[str]:
    names = set()
    for section, section_type in typing.get_type_hints(RunConfig).items():
        if dataclasses.is_dataclass(section_type):
            for key, hint in typing.get_type_hints(section_type).items():
                members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
                members += typing.get_args(hint)
                if bool in members:
                    names.add(f"{section}.{key}")
    return names
