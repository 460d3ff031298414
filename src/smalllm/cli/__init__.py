"""The command line: the only place that parses arguments, prints or exits.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 2 wrong options or configuration, 1 anything
else. Commands are imported when they are called, so that `smalllm --help` answers at once.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from smalllm import __version__
from smalllm.errors import ConfigError, SmalllmError

COMMANDS = {
    "quickstart": "train, evaluate and show a small story teller in minutes, offline",
    "recipes": "list the recipes, or print one as TOML",
    "prepare": "turn text into a tokenizer and shards of tokens",
    "train": "train a model on prepared data",
    "evaluate": "measure a run on held-out text",
    "generate": "write text with a run",
    "report": "draw a run's plots and its page",
    "doctor": "show what this machine is and can do",
}


def help_text() -> str:
    """What `smalllm --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: smalllm COMMAND [OPTIONS]",
            "",
            "Train a small GPT from scratch on the machine you have, in the time you have, and show that it is right.",
            "",
            "commands:",
            *lines,
            "",
            "  smalllm COMMAND --help    the options of a command",
            "  smalllm --version         the version",
            "",
            "New here? Run: smalllm quickstart",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: as on the command line, without the program's name.

    Returns:
        The exit code.
    """
    arguments = list(arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"smalllm {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        print(f"smalllm: no command is called {command!r}{hint}\n\n{help_text()}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(f"smalllm.cli.{command}").main(rest))
    except SmalllmError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(f"smalllm {command}: {line}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\nsmalllm {command}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `smalllm recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:  # a full disk, a missing permission: no bug of ours
        if debug:
            raise
        print(f"smalllm {command}: {error or type(error).__name__}", file=sys.stderr)
        return 1


def entry() -> None:
    """The `smalllm` program."""
    sys.exit(main(sys.argv[1:]))
