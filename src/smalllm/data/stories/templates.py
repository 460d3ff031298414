"""Sentence templates and word classes, compiled so that what they write can be read back in one way only.

`{hero}` repeats a fact. `{hero=child}` draws a word of the class `child`, writes it, and remembers it as
`hero`; `{=child}` draws without remembering. `{a thing=toy}` writes the word with its article,
`{skill.past=verb}` another form of it, and `{friend=child!hero}` anything but the word remembered as `hero`.
Of a remembered word every form is a fact: `{a thing}`, `{skill.past}`. Nothing here draws or reads: that is
the engine's part.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

_SLOT = re.compile(r"\{([^{}]*)\}")
_FREE_SLOT = re.compile(r"(a )?(\w*)(?:\.(\w+))?=(\w+)((?:!\w+)*)")
_CONSONANT_SOUND = ("uni", "use", "one", "eu")
_SILENT_H = ("hour", "honest", "honor")


class AmbiguityError(ValueError):
    """Two choices of a program could write the same text: a mistake of the program's author."""


@dataclass(frozen=True)
class Words:
    """A class of words that may stand in the same place, with integer weights so that draws are exact.

    Attributes:
        entries: per word its forms by name; the form "" is the word itself, the others may be anything that
            goes with it: a plural, a past tense, a pronoun.
        weights: per word, proportional to its probability.
    """

    entries: tuple[Mapping[str, str], ...]
    weights: tuple[int, ...]

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The position of each word."""
        return {entry[""]: position for position, entry in enumerate(self.entries)}


@dataclass(frozen=True, eq=False)
class Beat:
    """One step of a story: the templates that may tell it, with their weights."""

    forms: tuple[str, ...]
    weights: tuple[int, ...]


def beats(text: str) -> tuple[Beat, ...]:
    """Beats from text: a line per form, a blank line between beats. Forms of a beat are equally likely."""
    blocks = [block.split("\n") for block in re.split(r"\n\s*\n", text.strip())]
    return tuple(uniform_beat(tuple(line.strip() for line in lines)) for lines in blocks)


def uniform_beat(forms: tuple[str, ...]) -> Beat:
    """A beat whose forms are equally likely."""
    return Beat(forms, (1,) * len(forms))


@dataclass(frozen=True, slots=True)
class Slot:
    """A word class as one slot uses it: per option, its text, the facts to remember, its log-probability.

    `table` and `lengths` find the option that a text begins with; `differs_from` names facts to avoid.
    """

    label: str
    words: Words
    texts: tuple[str, ...]
    table: Mapping[str, int]
    lengths: tuple[int, ...]
    facts: tuple[Mapping[str, str], ...]
    differs_from: tuple[str, ...]
    cumulative: tuple[int, ...]
    log_probs: tuple[float, ...]

    def excluded(self, facts: Mapping[str, str]) -> frozenset[int]:
        """The options that the facts rule out.

        Raises:
            ValueError: they rule out every option.
        """
        options = [self.words.index.get(facts[name]) for name in self.differs_from]
        excluded = frozenset(option for option in options if option is not None)
        if len(excluded) == len(self.texts):
            raise ValueError(f"no option is left for {{{self.label}}}; the class needs more words")
        return excluded

    def log_prob(self, option: int, excluded: frozenset[int]) -> float:
        """Logarithm of an option's probability among those that are not excluded [nats]."""
        if not excluded:
            return self.log_probs[option]
        left = self.cumulative[-1] - sum(self.words.weights[i] for i in excluded)
        return math.log(self.words.weights[option] / left)


@dataclass(frozen=True, slots=True)
class CompiledBeat:
    """A beat ready to tell.

    Attributes:
        forms: per form its parts in order: text with facts to fill in (`%`-style), then a slot or, at the
            end, None.
        heads: per form the text before its first slot. No filled-in head begins another.
        cumulative: running sums of the weights.
        log_probs: per form [nats].
        open_pairs: per form, the others that it can be told from only once the facts are known.
    """

    forms: tuple[tuple[tuple[str, Slot | None], ...], ...]
    heads: tuple[str, ...]
    cumulative: tuple[int, ...]
    log_probs: tuple[float, ...]
    open_pairs: tuple[tuple[int, ...], ...]

    def check(self, chosen: int, facts: Mapping[str, str]) -> None:
        """Make sure that with these facts no other form could be taken for the chosen one.

        Raises:
            AmbiguityError: one could.
        """
        for other in self.open_pairs[chosen]:
            _check_heads(self.heads[chosen] % facts, self.heads[other] % facts)


def compile_beat(beat: Beat, lexicon: Mapping[str, Words], slots: dict[str, Slot]) -> CompiledBeat:
    """Compile the templates of a beat; equal slots are made once and kept in `slots`.

    Raises:
        AmbiguityError: two forms or two options could be confused.
        ValueError: a slot that is not written as the module describes, or of a class the lexicon lacks.
    """
    log_probs = _log_probs(beat.weights)
    forms = tuple(_compile_form(template, lexicon, slots) for template in beat.forms)
    cumulative = tuple(accumulate(beat.weights))
    heads = tuple(parts[0][0] for parts in forms)
    return CompiledBeat(forms, heads, cumulative, log_probs, _open_pairs(heads))


def article(text: str) -> str:
    """The text with "a" or "an" before it, as its first letters sound."""
    vowel = text.startswith(_SILENT_H) or (text[0] in "aeiou" and not text.startswith(_CONSONANT_SOUND))
    return f"an {text}" if vowel else f"a {text}"


def _compile_form(
    template: str, lexicon: Mapping[str, Words], slots: dict[str, Slot]
) -> tuple[tuple[str, Slot | None], ...]:
    literals_and_slots = _SLOT.split(template.replace("%", "%%"))
    parts: list[tuple[str, Slot | None]] = []
    text = literals_and_slots[0]
    for slot, literal in zip(literals_and_slots[1::2], literals_and_slots[2::2], strict=True):
        if "=" not in slot:
            text += f"%({slot})s{literal}"
            continue
        if not literal or literal[0].isalpha():
            raise AmbiguityError(f"{{{slot}}} in {template!r} must be followed by a space or punctuation")
        if slot not in slots:
            slots[slot] = _compile_slot(slot, lexicon)
        parts.append((text, slots[slot]))
        text = literal
    return (*parts, (text, None))


def _compile_slot(label: str, lexicon: Mapping[str, Words]) -> Slot:
    match = _FREE_SLOT.fullmatch(label)
    if match is None or match[4] not in lexicon:
        raise ValueError(f"{{{label}}} is not a slot of a known word class; those are {', '.join(lexicon)}")
    with_article, name, form, class_name, differs_from = match.groups()
    words = lexicon[class_name]
    texts = tuple(entry[form or ""] for entry in words.entries)
    if with_article:
        texts = tuple(article(text) for text in texts)
    _check_options(label, texts)
    return Slot(
        label=label,
        words=words,
        texts=texts,
        table={text: option for option, text in enumerate(texts)},
        lengths=tuple(sorted({len(text) for text in texts})),
        facts=tuple(_facts(name, entry) if name else {} for entry in words.entries),
        differs_from=tuple(differs_from.split("!")[1:]),
        cumulative=tuple(accumulate(words.weights)),
        log_probs=_log_probs(words.weights),
    )


def _facts(name: str, entry: Mapping[str, str]) -> dict[str, str]:
    facts = {f"{name}.{form}": text for form, text in entry.items() if form}
    return {name: entry[""], f"a {name}": article(entry[""]), **facts}


def _check_options(label: str, texts: tuple[str, ...]) -> None:
    """Options are whole words: "cat" and "catfish" can be told apart, "cat" and "cat food" cannot."""
    table = set(texts)
    if len(table) < len(texts):
        raise AmbiguityError(f"{{{label}}} has two options with the same text")
    for text in texts:
        for end, character in enumerate(text):
            if not character.isalpha() and text[:end] in table:
                raise AmbiguityError(f"{{{label}}}: {text!r} begins with another option, {text[:end]!r}")


def _check_heads(head: str, rival: str) -> None:
    if head.startswith(rival) or rival.startswith(head):
        raise AmbiguityError(f"forms that begin with {head!r} and {rival!r} cannot be told apart")


def _open_pairs(heads: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Per head, the others that part from it at or inside a fact; the rest differ whatever the facts."""
    pairs: list[list[int]] = [[] for _ in heads]
    for i, head in enumerate(heads):
        for j, rival in enumerate(heads[:i]):
            _check_heads(head, rival)
            same = next(k for k, (a, b) in enumerate(zip(head, rival, strict=False)) if a != b)
            # Both are equal up to `same`; they part inside a fact if the last one opened is still open there.
            in_fact = head.rfind("%(", 0, same) > head.rfind(")s", 0, same)
            if in_fact or "%" in (head[same], rival[same]):
                pairs[i].append(j)
                pairs[j].append(i)
    return tuple(tuple(others) for others in pairs)


def _log_probs(weights: tuple[int, ...]) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(math.log(weight / total) for weight in weights)
