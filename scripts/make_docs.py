#!/usr/bin/env python3
"""Write docs/configuration.md from the dataclasses of `smalllm.config`: every field, type, default and meaning.

The texts are the doc lines under the fields, so a field is described in one place. Run it after changing `config.py`;
a test fails while the page is stale.
"""

import ast
import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from smalllm import config
from smalllm.config import RunConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Written by `scripts/make_docs.py` from `src/smalllm/config.py`; change the texts there.

A run is decided by seven sections of fields. Each value comes from the last of these that gives it:

1. the default below,
2. the recipe, a `.toml` file given by name or path,
3. the command line, `--SECTION.FIELD VALUE` (`-` and `_` are the same; booleans take `true` or `false`; lists take
   several values), or `smalllm.override(config, {"SECTION.FIELD": value})` in Python.

An unknown field, a wrong type or an impossible value is an error, and all errors are reported together. Fields that are
absent or `auto` become numbers once, when training starts; the result is stored as `config.toml` in the run directory,
and `smalllm train runs/NAME/config.toml` repeats the run from it.

`recipe` is the name of the recipe that the run started from; a `.toml` file that does not set it gets its file name.

[Data sources](data-sources.md) says how the fields of `[data]` work together.

"absent" means that the field may be left out. `smalllm train RECIPE --help` shows the same fields with the recipe's
values as defaults.
"""

_NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def configuration_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    hints = typing.get_type_hints(RunConfig)
    for section in fields(RunConfig):
        kind = hints[section.name]
        if is_dataclass(kind):
            parts.append(_section(section.name, typing.cast(type, kind)))
    return "\n".join(parts)


def _section(name: str, kind: type) -> str:
    texts, hints = field_texts(kind), typing.get_type_hints(kind)
    lines = [f"## [{name}]", "", inspect.getdoc(kind) or "", "", "| field | value | default | meaning |"]
    lines.append("|---|---|---|---|")
    for f in fields(kind):
        value = " or ".join(_described(hints[f.name]))
        lines.append(f"| `{f.name}` | {value} | {_default(f)} | {texts[f.name]} |")
    return "\n".join(lines) + "\n"


def field_texts(kind: type) -> dict[str, str]:
    """The doc line under each field of a dataclass of `config.py`, on one line; "" where there is none."""
    tree = ast.parse(inspect.getsource(config))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    texts = {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = " ".join(str(following.value.value).split())
            texts[node.target.id] = text
    return texts


def _described(hint: Any) -> Iterator[str]:
    """What a type allows, in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            if member is not type(None):
                yield from _described(member)
    elif typing.get_origin(hint) is Literal:
        yield ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    elif typing.get_origin(hint) is tuple:
        choices = typing.get_args(typing.get_args(hint)[0])
        yield "list of " + (", ".join(f"`{choice}`" for choice in choices) or "texts")
    else:
        yield _NAMES[hint]


def _default(f: Field[Any]) -> str:
    value = f.default
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(_quoted, value))}]`"
    return f"`{value}`"


def _quoted(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    PAGE.write_text(configuration_page(), encoding="utf-8")
