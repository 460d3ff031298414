"""The documentation is true: its commands parse, its links lead somewhere, and every field is described.

The README's example and what is said of files are in test_docs_formats.py.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from smalllm import cli
from smalllm.cli.options import parse, split_recipe
from smalllm.config import RunConfig, field_names
from smalllm.errors import SmalllmError
from smalllm.model.count import count_parameters
from smalllm.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TAKES_RECIPE = ("prepare", "train", "find-lr", "plan", "bench train")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- commands


def commands_of(text: str) -> Iterator[str]:
    """Every `smalllm …` in code blocks and in code within lines; a comment ends it; another may follow.

    A line that ends with a backslash goes on in the next, as in a shell.
    """
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        for part in re.split(r"&&|·|; |\s{2,}(?=smalllm )", line):
            found = re.match(r"\s*smalllm(?= +[-\w])(.*?)(?:\s#.*)?$", part)
            if found:
                yield found[1].strip()


def problem_with(command: str) -> str | None:
    """Why the command line would refuse these words; None if it would not. No work is done."""
    words = shlex.split(command)
    if words[0] in ("--help", "--version", "COMMAND"):
        return None
    name, arguments = words[0], words[1:]
    if name not in cli.COMMANDS:
        return f"no command is called {name}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            parse_as(name, arguments)
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    except (SmalllmError, KeyError) as error:
        return str(error)
    return None


def parse_as(name: str, arguments: list[str]) -> None:
    module = importlib.import_module(f"smalllm.cli.{name.replace('-', '_')}")
    if name == "bench":  # a command of commands: the next word says which
        if not arguments:
            return
        name, arguments = f"bench {arguments[0]}", arguments[1:]
        if name[6:] not in module.WHAT:
            raise KeyError(name)
        module = importlib.import_module(f"smalllm.cli.{name.replace(' ', '.')}")
    options = module.Options
    if name in TAKES_RECIPE and arguments:
        # a configuration file that a reader has, and we have not, stands for any recipe
        given = "stories" if arguments[0] == "RECIPE" or arguments[0].endswith(".toml") else arguments[0]
        config, rest, _ = split_recipe([given, *arguments[1:]], command=name)
        parse(options, rest, command=name, config=config)
    elif name not in TAKES_RECIPE and (arguments or not needs_run(options)):
        parse(options, arguments, command=name)


def needs_run(options: Any) -> bool:
    """Whether a bare command name is only the name of a command, as in a table."""
    return any(f.default is dataclasses.MISSING for f in dataclasses.fields(options))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_parses(name: str) -> None:
    for command in commands_of(page(name)):
        assert problem_with(command) is None, f"{name}: smalllm {command}"


@pytest.mark.parametrize(
    "command",
    [
        "chat runs/x",
        "serve runs/x --prot 1",
        "train storys",
        "train stories --optim.lrr 3",
        "train stories --train.max_steps many",
        "train stories --train.precision fp8",
        "prepare stories --resume",
        "generate runs/x --promts hello",
        "evaluate runs/x --tokens few",
        "quickstart 3",
        "bench tokenise",
        "bench tokenize --megabyte 3",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    (found,) = commands_of(f"```bash\nsmalllm {command}   # try it\n```")
    assert found == command
    assert problem_with(found)


def test_commands_are_found_wherever_they_stand() -> None:
    text = "Run `smalllm doctor` or\n```\nsmalllm a && smalllm b --c 'x y'  # d\n x ─► smalllm no\nsmalllm = 3\n```\n"
    assert list(commands_of(text)) == ["a", "b --c 'x y'", "doctor"]
    assert len(list(commands_of(page("README.md")))) > 8


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"smalllm {command}\b", page("README.md"))


# --- links and paths


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {anchor(title) for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def broken_links(text: str, *, folder: Path) -> list[str]:
    """Relative links that lead to no file or no heading, and paths of this repository that do not exist."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        file = folder / path
        is_there = file.exists()
        if heading and is_there:
            is_there = heading in anchors_of(file.read_text(encoding="utf-8") if path else text)
        if not is_there:
            broken.append(target)
    mentioned = re.findall(r"(?<![\w/.])(?:src|docs|tests|scripts)/[\w./-]*\w", text)
    return broken + [path for path in mentioned if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_path_leads_somewhere(name: str) -> None:
    assert broken_links(page(name), folder=(ROOT / name).parent) == []


def test_links_and_paths_that_lead_nowhere_are_found() -> None:
    text = (
        "# A title: x\n[a](LICENSE) [b](#a-title-x) [c](https://x.y) [d](no.md) [e](#no) [f](README.md#no) `src/no.py`"
    )
    assert broken_links(text, folder=ROOT) == ["no.md", "#no", "README.md#no", "src/no.py"]


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = re.search(r"^```\nsrc/smalllm/\n(.*?)^```", page("README.md"), flags=re.DOTALL | re.MULTILINE)
    assert tree
    names = re.findall(r"^  (\S+)", tree[1], flags=re.MULTILINE)
    assert [name for name in names if not (ROOT / "src/smalllm" / name).exists()] == []
    folders = {f"{path.name}/" for path in (ROOT / "src/smalllm").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(names)


# --- configuration


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections() -> dict[str, type]:
    hints = typing.get_type_hints(RunConfig)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


def test_the_configuration_page_is_fresh(make_docs: ModuleType) -> None:
    fresh = make_docs.configuration_page()
    assert page("docs/configuration.md") == fresh, "stale; run: python scripts/make_docs.py"
    assert page("docs/configuration.md").replace("Transformer blocks", "Blocks") != fresh


def test_every_field_is_described(make_docs: ModuleType) -> None:
    for section, kind in sections().items():
        texts = make_docs.field_texts(kind)
        assert list(texts) == list(field_names(kind))
        assert [f"{section}.{name}" for name, text in texts.items() if len(text) < 10] == []
        documented = page("docs/configuration.md").split(f"## [{section}]")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", documented, flags=re.MULTILINE) == list(texts)


def dotted_names(text: str) -> set[str]:
    """`section.field` wherever a page writes one as code, with or without the dashes of an option."""
    pattern = rf"(?:--|`|\")((?:{'|'.join(sections())})\.\w+)(?![\w/.])"
    return {name for name in re.findall(pattern, text) if not name.endswith((".json", ".model"))}


@pytest.mark.parametrize("name", NAMES)
def test_every_field_that_a_page_names_exists(name: str) -> None:
    known = {f"{section}.{field}" for section, kind in sections().items() for field in field_names(kind)}
    assert dotted_names(page(name)) - known == set()


def test_a_field_that_does_not_exist_is_found() -> None:
    text = '`optim.lr` and `--train.max_step 3` and {"data.file": 1} but not `tokenizer.json` or `src/config.py`'
    assert dotted_names(text) == {"optim.lr", "train.max_step", "data.file"}


# --- recipes


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_pages_have_the_counted_parameters(name: str) -> None:
    config = load_recipe(name)
    known = {"gpt2": 50_257, "bytes": 257, "huggingface": 50_257}  # the recipes' own is GPT-2's
    vocab_size = config.tokenizer.vocab_size or known[config.tokenizer.kind]
    counted = f"{count_parameters(config.model, vocab_size=vocab_size).total:,}"
    table = {row.split("]")[0]: row for row in page("docs/recipes/README.md").split("\n| [")[1:]}
    assert counted in page(f"docs/recipes/{name}.md") and f"| {counted} |" in table[name]
    m = config.model
    assert f"| {m.n_layers} · {m.d_model} · {m.n_heads} · {m.context_length} |" in table[name]
