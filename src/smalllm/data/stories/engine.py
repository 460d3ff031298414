"""A small engine for random texts of known probability: one program is sampled, parsed and enumerated.

A program is a plain function that tells a story to a `Teller`, beat by beat. Every random choice writes text
from which it can be read back, so text and choices determine each other, and the probability of a text is the
product of the probabilities of its choices. A program in which choices could be confused is refused, never
guessed at. The engine knows nothing about stories: sentences and words are given to it.
"""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NoReturn

from smalllm.data.stories.templates import AmbiguityError, Beat, CompiledBeat, Slot, Words, compile_beat
from smalllm.errors import DataError

_SHOWN = 40  # how much text an error message quotes [characters]


@dataclass(frozen=True, slots=True)
class Story:
    """A text and the natural logarithm of its probability under the program that tells it."""

    text: str
    log_prob: float  # [nats]


class StoryError(DataError):
    """A text that the program cannot tell.

    Attributes:
        position: index of the first character that does not fit [characters].
        expected, found: what could have stood there, and what does.
    """

    def __init__(self, position: int, expected: str, found: str) -> None:
        self.position = position
        self.expected = expected
        self.found = found
        super().__init__(
            f"found {found} at character {position}, expected {expected}; "
            "only a text that the grammar can write, to the letter, has a probability"
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A function that tells a story, and the words it may use. Beats are compiled when first told."""

    tell: Callable[["Teller"], object]
    lexicon: Mapping[str, Words]
    _beats: dict[Beat, CompiledBeat] = field(default_factory=dict, init=False, repr=False, compare=False)
    _slots: dict[str, Slot] = field(default_factory=dict, init=False, repr=False, compare=False)

    def compiled(self, beat: Beat) -> CompiledBeat:
        """The beat, compiled.

        Raises:
            AmbiguityError: its choices could be confused.
        """
        compiled = self._beats.get(beat)
        if compiled is None:
            compiled = self._beats[beat] = compile_beat(beat, self.lexicon, self._slots)
        return compiled


class Teller:
    """What a program tells its story to. Its kinds decide how to choose: draw, read, or try in turn.

    Attributes:
        facts: what the story has said so far, by name.
        log_prob: logarithm of the probability of the choices so far [nats].
    """

    def __init__(self, program: Program) -> None:
        self.facts: dict[str, str] = {}
        self.log_prob = 0.0
        self._program = program

    def tell(self, beat: Beat) -> int:
        """Tell one form of a beat, and return which one."""
        compiled = self._program.compiled(beat)
        chosen = self.choose_form(compiled)
        compiled.check(chosen, self.facts)
        self.log_prob += compiled.log_probs[chosen]
        for text, slot in compiled.forms[chosen]:
            self.say(text % self.facts)
            if slot is not None:
                excluded = slot.excluded(self.facts) if slot.differs_from else frozenset()
                option = self.choose_option(slot, excluded)
                self.log_prob += slot.log_prob(option, excluded)
                self.say(slot.texts[option])
                self.facts.update(slot.facts[option])
        return chosen

    def say(self, text: str) -> None:
        """Tell fixed text."""
        raise NotImplementedError

    def choose_form(self, beat: CompiledBeat) -> int:
        """Which form of the beat comes next."""
        raise NotImplementedError

    def choose_option(self, slot: Slot, excluded: frozenset[int]) -> int:
        """Which option of the slot comes next; never an excluded one."""
        raise NotImplementedError


class Writer(Teller):
    """A teller that keeps the text it is told."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._text: list[str] = []

    def say(self, text: str) -> None:
        self._text.append(text)

    def story(self) -> Story:
        """The story so far."""
        return Story("".join(self._text), self.log_prob)


class _Sampler(Writer):
    """Draws each choice. Only `random()` is used: its sequence is the same on every platform and version."""

    def __init__(self, program: Program, random: Random) -> None:
        super().__init__(program)
        self._random = random.random

    def choose_form(self, beat: CompiledBeat) -> int:
        return bisect(beat.cumulative, self._random() * beat.cumulative[-1])

    def choose_option(self, slot: Slot, excluded: frozenset[int]) -> int:
        while True:  # drawing again until the option is allowed renormalises the weights exactly
            option = bisect(slot.cumulative, self._random() * slot.cumulative[-1])
            if option not in excluded:
                return option


class _Parser(Teller):
    """Reads each choice from a given text."""

    def __init__(self, program: Program, text: str) -> None:
        super().__init__(program)
        self._text = text
        self._position = 0

    def say(self, text: str) -> None:
        if not self._text.startswith(text, self._position):
            self._fail([text])
        self._position += len(text)

    def choose_form(self, beat: CompiledBeat) -> int:
        heads = [head % self.facts for head in beat.heads]
        fitting = [i for i, head in enumerate(heads) if self._text.startswith(head, self._position)]
        if not fitting:
            self._fail(heads)
        if len(fitting) > 1:
            raise AmbiguityError(f"{len(fitting)} forms fit the text at character {self._position}")
        return fitting[0]

    def choose_option(self, slot: Slot, excluded: frozenset[int]) -> int:
        for length in slot.lengths:
            end = self._position + length
            option = slot.table.get(self._text[self._position : end])
            if option is not None and option not in excluded and not self._text[end : end + 1].isalpha():
                return option
        self._fail([text for option, text in enumerate(slot.texts) if option not in excluded])

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._position != len(self._text):
            raise StoryError(self._position, "the end of the text", self._found(self._position))

    def _fail(self, expected: list[str]) -> NoReturn:
        """Report the texts that agree furthest with what is there, where they part from it."""
        rest = self._text[self._position :]
        agreed = [_agreed(rest, text) for text in expected]
        position = self._position + max(agreed)
        shown = [text[max(agreed) :] for text, n in zip(expected, agreed, strict=True) if n == max(agreed)]
        choices = [repr(text[:_SHOWN]) if text else "the end of the word" for text in shown[:3]]
        choices += [f"{len(shown) - 3} others"] if len(shown) > 3 else []
        raise StoryError(position, " or ".join(choices), self._found(position))

    def _found(self, position: int) -> str:
        return repr(self._text[position : position + _SHOWN]) if position < len(self._text) else "the end"


class _Enumerator(Writer):
    """Follows a list of choices as far as it goes, then takes the first of each; notes what comes next."""

    def __init__(self, program: Program, choices: list[int]) -> None:
        super().__init__(program)
        self._choices = choices
        self.remaining: list[list[int]] = []

    def choose_form(self, beat: CompiledBeat) -> int:
        return self._choose(list(range(len(beat.forms))))

    def choose_option(self, slot: Slot, excluded: frozenset[int]) -> int:
        return self._choose([i for i in range(len(slot.texts)) if i not in excluded])

    def _choose(self, allowed: list[int]) -> int:
        depth = len(self.remaining)
        chosen = self._choices[depth] if depth < len(self._choices) else allowed[0]
        self.remaining.append(allowed[allowed.index(chosen) :])
        return chosen


def _agreed(a: str, b: str) -> int:
    """How many characters a and b have in common from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def sample(program: Program, random: Random) -> Story:
    """Draw one story of a program."""
    sampler = _Sampler(program, random)
    program.tell(sampler)
    return sampler.story()


def parse_with(program: Program, text: str) -> Story:
    """Read the choices of a program back from a text, and with them its probability.

    Raises:
        StoryError: the program cannot tell this text.
        AmbiguityError: the program can tell it in two ways, which is a mistake in the program.
    """
    parser = _Parser(program, text)
    program.tell(parser)
    parser.end()
    return Story(text, parser.log_prob)


def enumerate_stories(program: Program) -> Iterator[Story]:
    """Every story of a program, each once; their probabilities sum to 1.

    For small programs, whose stories can be counted: the time taken grows with their number.
    """
    choices: list[int] | None = []
    while choices is not None:
        enumerator = _Enumerator(program, choices)
        program.tell(enumerator)
        yield enumerator.story()
        remaining = enumerator.remaining
        while remaining and len(remaining[-1]) == 1:
            remaining.pop()
        choices = [left[0] for left in remaining[:-1]] + [remaining[-1][1]] if remaining else None
