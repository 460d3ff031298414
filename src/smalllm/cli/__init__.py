"""The command line: the only place that parses arguments, prints or exits.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 2 wrong options or configuration, 1 anything
else. Commands are imported when they are called, so that `smalllm --help` answers at once.
"""

import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence

from smalllm import __version__
from smalllm.errors import ConfigError, RankError, SmalllmError
from smalllm.rundir import is_other_rank

COMMANDS = {
    "quickstart": "train, evaluate and show a small story teller in minutes, offline",
    "recipes": "list the recipes, or print one as TOML",
    "prepare": "turn text into a tokenizer and shards of tokens",
    "inspect": "show what is in prepared data, or in another program's shards",
    "plan": "say what a run will cost here, or which model fits some minutes and memory",
    "train": "train a model on prepared data",
    "find-lr": "suggest a learning rate by a short test, with its plot",
    "evaluate": "measure a run on held-out text",
    "generate": "write text with a run",
    "explain": "look into a run while it reads a prompt: attention, surprise, layer by layer",
    "serve": "answer over HTTP, as OpenAI's completions, with a page to play",
    "export": "write a run for Hugging Face transformers or llama.cpp",
    "import": "make a run of a Hugging Face checkpoint",
    "bench": "measure speed against peers, alternating in one call",
    "report": "show a run, or compare several: plots and a page",
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
        return int(importlib.import_module(f"smalllm.cli.{command.replace('-', '_')}").main(rest))
    except (Exception, KeyboardInterrupt) as error:
        explained = None if debug else _explained(error)
        if explained is None:
            raise
        code, text = explained
        if text and (isinstance(error, RankError) or not is_other_rank()):  # what all ranks find, rank 0 says
            print(f"smalllm {command}: {text}", file=sys.stderr)
        return code


def _explained(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message of what can go wrong without a bug of ours; None for anything else."""
    if isinstance(error, SmalllmError):
        return (2 if isinstance(error, ConfigError) else 1), str(error)
    if isinstance(error, KeyboardInterrupt):
        return 1, "interrupted"
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as in `smalllm recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0, ""
    # PyTorch says it in its own ways: an OutOfMemoryError on a GPU, a RuntimeError on the CPU.
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        first_line = str(error).splitlines()[0]
        return 1, f"out of memory ({first_line}); use a smaller --train.micro_batch_size, or a smaller model"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 1, f"{error}; make some room there, or write to another disk (--out), and run the same command again"
    if isinstance(error, (OSError, MemoryError)):  # a missing permission
        return 1, str(error) or type(error).__name__
    return None


def _open_closed() -> None:
    """Let what is said go nowhere where the caller closed an output: files opened later would get it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - open as long as the process; takes the number that is free
            if stream.fileno() == number:
                os.set_inheritable(number, True)  # for the processes that are started
            setattr(sys, name, stream)


def entry() -> None:
    """The `smalllm` program."""
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names and texts that the terminal's encoding lacks
    sys.exit(main(sys.argv[1:]))
