"""Every module, and every public class, function and method, says what it is. An overriding method may rely on the
text of what it overrides, and a property on that of its class.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import smalllm

SOURCE = Path(smalllm.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
)


def without_text(module: ModuleType) -> Iterator[str]:
    """The public things of a module that have no docstring."""
    if not module.__doc__:
        yield module.__name__
    for name, thing in vars(module).items():
        is_own = getattr(thing, "__module__", None) == module.__name__
        if name.startswith("_") or not is_own or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        # a dataclass without a docstring is given one that repeats its signature
        if not thing.__doc__ or thing.__doc__.startswith(f"{name}("):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(thing):
            yield from (f"{module.__name__}.{name}.{key}" for key in methods_without_text(thing))


def methods_without_text(cls: type[Any]) -> Iterator[str]:
    for name, thing in vars(cls).items():
        is_method = inspect.isroutine(thing) or isinstance(thing, classmethod | staticmethod)
        if not name.startswith("_") and is_method and not inspect.getdoc(getattr(cls, name)):
            yield name


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    assert list(without_text(importlib.import_module(name))) == []


SILENT = """
import dataclasses

def told():
    '''Text.'''

def silent(): ...

def _private(): ...

@dataclasses.dataclass
class Plain:
    x: int = 1

class Base:
    '''Text.'''
    def told(self):
        '''Text.'''
    def silent(self): ...
    @property
    def value(self): ...
    @classmethod
    def make(cls): ...

class Child(Base):
    '''Text.'''
    def told(self): ...
    def silent(self): ...
"""


def test_what_has_no_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_up")
    monkeypatch.setitem(importlib.import_module("sys").modules, "made_up", module)
    exec(SILENT, vars(module))
    assert set(without_text(module)) == {
        "made_up",
        "made_up.silent",
        "made_up.Plain",
        "made_up.Base.silent",
        "made_up.Base.make",
        "made_up.Child.silent",
    }
