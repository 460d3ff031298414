"""`smalllm generate RUN --interactive`: a text that a user and a model write in turn."""

import contextlib
import difflib
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smalllm.cli.generate import bias_of
from smalllm.errors import ConfigError

if TYPE_CHECKING:  # torch is loaded when somebody writes
    from smalllm.api.text import DecodePrecision
    from smalllm.generation.sampling import SamplingConfig
    from smalllm.run import Run

HELP = """\
Write some text, and the model goes on; Enter alone lets it go on again. Ctrl-C interrupts it, Ctrl-D ends.
  /undo               take back the last turn
  /retry              take back the last continuation and draw another
  /new                forget the text and start a new one
  /text               show the text so far
  /settings           show the settings
  /SETTING VALUE      change one, as in /temperature 0.5 or /max_tokens 100 or /stop "The end"
  /preset NAME        greedy, conservative or nucleus
  /help               this page
  /quit               end
  //                  a line of text that begins with /
Tab completes commands, settings and presets."""
_ACTIONS = ("undo", "retry", "new", "text", "settings", "preset", "help", "quit")
_SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "max_tokens": int,
    "seed": int,
    "past_context": str,
    "stop": lambda words: (words.strip('"'),) if words.strip('"') else (),
    "logit_bias": lambda words: bias_of(words.split()),
}


class Session:
    """The text so far, its earlier states, and the settings.

    Args:
        run: loaded.
        sampling: the first settings.
        precision: of the weights.

    Attributes:
        text: what was written together.
        is_over: whether the user has ended it.
    """

    def __init__(self, run: "Run", sampling: "SamplingConfig", *, precision: "DecodePrecision" = "auto") -> None:
        from smalllm.api.text import open_decoder

        self._run, self.sampling = run, sampling
        self._decoder = open_decoder(run, n_slots=1, precision=precision)
        self.text, self.is_over = "", False
        self._before: list[tuple[str, str]] = []  # the text before each turn, and what the user added in it

    def take(self, line: str) -> None:
        """Act on a line: a command, or text to add and continue."""
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            try:
                self._command(name.strip().replace("-", "_").lower(), rest.strip())
            except ConfigError as error:
                print(error, file=sys.stderr)
            return
        self._turn(line.removeprefix("/") if line.startswith("//") else line)

    def _turn(self, added: str) -> None:
        from smalllm.generation.sampling import of_sample
        from smalllm.generation.text import prompt_ids

        self._before.append((self.text, added))
        self.text += added
        print(added, end="", flush=True)
        try:
            ids = prompt_ids(self.text, self._run.tokenizer, self._run.config.data)
            slot = self._decoder.add(ids, of_sample(self.sampling, 0))
        except ConfigError as error:
            self.text, _ = self._before.pop()
            print(f"\n{error}", file=sys.stderr)
            return
        self.sampling = replace(self.sampling, seed=(self.sampling.seed + 1) % 2**63)  # another draw the next time
        with contextlib.suppress(KeyboardInterrupt):
            while self._decoder.active:
                for event in self._decoder.step():
                    self.text += event.text
                    print(event.text, end="", flush=True)
        if self._decoder.active:
            self._decoder.remove(slot)
        print()

    def _command(self, name: str, rest: str) -> None:
        if name == "undo":
            self._undo()
            print(self.text)
        elif name == "retry":
            self._turn(self._undo())
        elif name == "new":
            self.text, self._before = "", []
        elif name == "text":
            print(self.text)
        elif name == "settings":
            print("\n".join(f"  {key} {getattr(self.sampling, key)}" for key in _SETTINGS))
        elif name == "preset":
            self._preset(rest)
        elif name in ("help", "?"):
            print(HELP)
        elif name in ("quit", "exit", "q"):
            self.is_over = True
        else:
            self._set(name, rest)

    def _undo(self) -> str:
        """Take back a turn; what the user had written in it."""
        if not self._before:
            raise ConfigError("nothing was written yet")
        self.text, added = self._before.pop()
        return added

    def _preset(self, name: str) -> None:
        from smalllm.generation.sampling import PRESETS

        if name not in PRESETS:
            raise ConfigError(f"/preset {name}: must be {', '.join(PRESETS)}")
        kept = {key: getattr(self.sampling, key) for key in ("seed", "max_tokens", "stop", "past_context")}
        self.sampling = replace(PRESETS[name], **kept)

    def _set(self, name: str, value: str) -> None:
        from smalllm.generation.sampling import check_sampling

        if name not in _SETTINGS:
            close = difflib.get_close_matches(name, [*_SETTINGS, *_ACTIONS], n=1)
            raise ConfigError(f"/{name}: there is none; " + (f"did you mean /{close[0]}?" if close else "see /help"))
        if not value and name not in ("stop", "logit_bias"):
            print(f"  {name} {getattr(self.sampling, name)}")
            return
        try:
            changed = replace(self.sampling, **{name: _SETTINGS[name](value)})
        except ValueError as error:
            raise ConfigError(f"/{name} {value}: must be a number") from error
        check_sampling(changed, vocab_size=self._run.tokenizer.vocab_size)
        self.sampling = changed


def complete(line: str) -> list[str]:
    """What the last word of a line may become: names of commands and settings, and their values."""
    from smalllm.generation.sampling import PRESETS

    *before, word = line.split(" ")
    words: dict[str, list[str]] = {
        "": [f"/{name}" for name in (*_ACTIONS, *_SETTINGS)] if word.startswith("/") else [],
        "/preset": list(PRESETS),
        "/past_context": ["slide", "stop"],
    }
    return sorted(found for found in words.get(" ".join(before), []) if found.startswith(word))


def _edit_lines() -> None:
    """Line editing, history and completion with Tab, where Python has them."""
    with contextlib.suppress(ImportError):
        import readline

        def nth(word: str, n: int) -> str | None:
            found = complete(readline.get_line_buffer()[: readline.get_endidx()])
            return found[n] if n < len(found) else None

        readline.set_completer_delims(" ")
        readline.set_completer(nth)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def converse(run: "Run", sampling: "SamplingConfig", *, first: str = "", precision: "DecodePrecision" = "auto") -> int:
    """Read lines until the user ends it.

    Args:
        run: loaded.
        sampling: the first settings.
        first: continued before the first line is read; may be empty.
        precision: of the weights.

    Returns:
        The exit code.
    """
    _edit_lines()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is no text spoils its line, not the session
    session = Session(run, sampling, precision=precision)
    print("/help shows the commands, /quit ends", file=sys.stderr)
    if first:
        session.take(first.replace("/", "//", 1) if first.startswith("/") else first)
    while not session.is_over:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            break
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            print("this line is not UTF-8 text", file=sys.stderr)
            continue
        session.take(line)
    return 0
