"""Recipes: TOML files that set some fields of a `RunConfig`; the rest keep their defaults.

A recipe is named (`tinystories`, one of the files beside this one) or a path (`my.toml`, `runs/x/config.toml`).
Reading is strict: an unknown key, a wrong type or an impossible value is reported together with all others.
"""

import difflib
import os
import tempfile
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union

from smalllm.config import RunConfig, as_dict
from smalllm.errors import ConfigError


def recipe_names() -> list[str]:
    """The names of the recipes that come with smalllm, sorted."""
    found = resources.files("smalllm.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in found if f.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of a recipe, by name or path.

    Raises:
        ConfigError: no such recipe or file; the message names the nearest recipe.
    """
    path = Path(name)
    if name in recipe_names():
        return (resources.files("smalllm.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    if path.is_dir() and (path / "config.toml").is_file():
        path = path / "config.toml"
    if not path.is_file():
        raise ConfigError(
            f"no recipe or file is called {name!r}{_nearest(name, recipe_names())}; the recipes are "
            f"{', '.join(recipe_names())}; a file is given by its path, for example my.toml"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error


def load_recipe(name: str) -> RunConfig:
    """The configuration of a recipe, by name or path.

    Args:
        name: a recipe's name, a `.toml` file, or a run directory (its stored configuration).

    Raises:
        ConfigError: not found, not TOML, or keys and values that are not allowed, all of them at once.
    """
    text = recipe_text(name)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    if name in recipe_names():
        table.setdefault("recipe", name)
    elif "recipe" not in table:
        table["recipe"] = Path(name).stem
    return from_dict(table, where=name)


def from_dict(table: Mapping[str, Any], *, where: str = "configuration") -> RunConfig:
    """A `RunConfig` from nested dictionaries, strictly.

    Raises:
        ConfigError: every unknown key (with the nearest name) and wrong type, together.
    """
    wrong = list(_table_problems(RunConfig, table, prefix=""))
    if wrong:
        raise ConfigError([f"{where}: {problem}" for problem in wrong])
    config: RunConfig = _build(RunConfig, table)
    return config


def override(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A copy with dotted fields changed: `override(config, {"optim.lr": 1e-3})`; None gives a field its default.

    Raises:
        ConfigError: every unknown field and wrong type, together.
    """
    table: dict[str, Any] = as_dict(config)
    names = [name for name in _all_names(RunConfig) if name not in table or name == "recipe"]  # fields, not sections
    wrong = []
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        inner = table.get(section, table)
        if name not in names:
            wrong.append(f"{name}: no such field{_nearest_field(name)}")
        elif value is None:
            inner.pop(key, None)
        else:
            inner[key] = value
    wrong += _table_problems(RunConfig, table, prefix="")
    if wrong:
        raise ConfigError(wrong)
    overridden: RunConfig = _build(RunConfig, table)
    return overridden


def save_config(config: RunConfig, path: Path) -> None:
    """Write a configuration as TOML, atomically, so that `load_recipe(path)` gives it back."""
    import tomli_w

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    with os.fdopen(handle, "wb") as file:
        tomli_w.dump(as_dict(config), file)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _table_problems(config_type: type, table: Mapping[str, Any], *, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(config_type)
    for key, value in table.items():
        name = prefix + key
        if key not in hints:
            kind = "section" if isinstance(value, Mapping) else "field"
            yield f"{name}: no such {kind}{_nearest_field(name)}"
        elif is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                yield f"{name} = {value!r}: must be a section, [{name}]"
            else:
                yield from _table_problems(typing.cast(type, hints[key]), value, prefix=name + ".")
        elif not _fits(value, hints[key]):
            allowed, choices = _describe(hints[key])
            wrong = next((v for v in value if v not in choices), "") if isinstance(value, list | tuple) else value
            yield f"{name} = {value!r}: must be {allowed}{_nearest(str(wrong), choices)}"


def _build(config_type: type, table: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(config_type)
    values = {}
    for key, value in table.items():
        hint = hints[key]
        if is_dataclass(hint):
            values[key] = _build(typing.cast(type, hint), value)
        elif isinstance(value, list | tuple):
            values[key] = tuple(value)
        elif float in _members(hint) and not isinstance(value, bool):
            values[key] = float(value)
        else:
            values[key] = value
    return replace(config_type(), **values)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, member) for member in _members(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits_one(v, typing.get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _describe(hint: Any) -> tuple[str, list[str]]:
    """What a type allows, in words, and its named choices."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    parts, choices = [], []
    for member in _members(hint):
        if typing.get_origin(member) is Literal:
            choices = list(typing.get_args(member))
            parts.append(" or ".join(f'"{choice}"' for choice in choices))
        elif typing.get_origin(member) is tuple:
            choices = list(typing.get_args(typing.get_args(member)[0]))
            parts.append("a list of " + (" or ".join(f'"{choice}"' for choice in choices) or "texts"))
        elif member is not type(None):
            parts.append(words[member])
    return " or ".join(parts), choices


def _all_names(config_type: type, prefix: str = "") -> list[str]:
    hints = typing.get_type_hints(config_type)
    names: list[str] = []
    for f in fields(config_type):
        names.append(prefix + f.name)
        if is_dataclass(hints[f.name]):
            names += _all_names(typing.cast(type, hints[f.name]), prefix + f.name + ".")
    return names


def _nearest(name: str, allowed: list[str]) -> str:
    """`; did you mean "x"?`, or nothing."""
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _nearest_field(name: str) -> str:
    """The same for a dotted name: the field whose own name is nearest, of the same section if it has one."""
    section, _, key = name.rpartition(".")
    by_key = {full.rpartition(".")[2]: full for full in _all_names(RunConfig)}
    beside = {full.rpartition(".")[2]: full for full in _all_names(RunConfig) if full.rpartition(".")[0] == section}
    for names in (beside, by_key):
        if close := difflib.get_close_matches(key, names, n=1, cutoff=0.6):
            return f'; did you mean "{names[close[0]]}"?'
    return ""
