"""The embedded corpus: exact probabilities, one reading per text, bounds, and the same stories everywhere."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data.stories import CLOSING, StoryError, enumerate_stories, is_valid, parse, stories, story
from smalllm.data.stories.engine import Program, Teller, Writer, parse_with, sample
from smalllm.data.stories.grammar import ENDING, OPENING, OUTING, REACTION, story_program, tell_story
from smalllm.data.stories.lexicon import lexicon
from smalllm.data.stories.plots import PLOTS, Plot
from smalllm.data.stories.templates import (
    AmbiguityError,
    Beat,
    CompiledBeat,
    Slot,
    Words,
    article,
    beats,
    uniform_beat,
)
from smalllm.errors import DataError

SAMPLE = list(stories(0, 1500))

NAMES = Words(({"": "Ann", "he": "she"}, {"": "Bob", "he": "he"}, {"": "Bobby", "he": "he"}), weights=(5, 2, 1))
PETS = Words(({"": "cat"}, {"": "owl"}, {"": "catfish"}), weights=(1, 1, 1))
TINY_LEXICON = {"name": NAMES, "pet": PETS}
MEETING, EXCLAMATION = beats("""
Long ago, {hero=name} met {friend=name!hero}.
Once, {hero=name} and {friend=name!hero} met.

Wait.
Look, 100 % fun!
""")
OWNING = uniform_beat(("{hero} had {a pet=pet}, and {hero.he} loved the {pet}.",))
WISHING = Beat(("{friend} wanted {a pet}.", "{hero} had another {=pet!pet}."), weights=(3, 1))


def tiny(teller: Teller) -> None:
    """Facts, forms of names, articles, weights, exclusions, and a branch that depends on a choice."""
    teller.tell(MEETING)
    teller.say(" ")
    if teller.tell(EXCLAMATION):
        teller.say(" ")
        teller.tell(OWNING)
        teller.say(" ")
        teller.tell(WISHING)


def program_of(*forms: str, words: dict[str, Words] | None = None) -> Program:
    beat = uniform_beat(forms)
    return Program(lambda teller: teller.tell(beat), words or TINY_LEXICON)


def words(*texts: str) -> Words:
    return Words(tuple({"": text} for text in texts), (1,) * len(texts))


# --- the engine, on grammars small enough to write out


def test_tiny_program_is_a_probability_distribution() -> None:
    all_stories = list(enumerate_stories(Program(tiny, TINY_LEXICON)))
    texts = [story.text for story in all_stories]
    probabilities = [math.exp(story.log_prob) for story in all_stories]
    assert len(set(texts)) == len(texts)
    assert abs(math.fsum(probabilities) - 1) < 1e-12
    assert abs(math.fsum(probabilities[1:]) - 1) > 1e-6  # the sum notices one story that is missing


def test_tiny_program_writes_what_its_templates_say() -> None:
    texts = {story.text for story in enumerate_stories(Program(tiny, TINY_LEXICON))}
    assert "Long ago, Ann met Bob. Wait." in texts
    ending = "Look, 100 % fun! Bobby had an owl, and he loved the owl. Ann wanted an owl."
    assert f"Once, Bobby and Ann met. {ending}" in texts
    assert not any("Ann met Ann" in text for text in texts)


def test_excluded_words_renormalise_the_others() -> None:
    by_text = {story.text: story for story in enumerate_stories(Program(tiny, TINY_LEXICON))}
    found = math.exp(by_text["Long ago, Ann met Bob. Wait."].log_prob)
    assert found == pytest.approx(1 / 2 * 5 / 8 * 2 / 3 * 1 / 2, rel=1e-12)
    assert found != pytest.approx(1 / 2 * 5 / 8 * 2 / 8 * 1 / 2, rel=1e-3)  # without renormalising


def test_parse_inverts_every_story_of_the_tiny_program() -> None:
    program = Program(tiny, TINY_LEXICON)
    for told in enumerate_stories(program):
        assert parse_with(program, told.text) == told


def test_samples_follow_the_enumerated_probabilities() -> None:
    program = Program(tiny, TINY_LEXICON)
    random = Random(7)
    n = 4000
    counts = Counter(sample(program, random).text for _ in range(n))
    for told in enumerate_stories(program):
        expected = n * math.exp(told.log_prob)
        assert abs(counts[told.text] - expected) < 5 * math.sqrt(expected) + 1


@pytest.mark.parametrize(
    ("forms", "classes"),
    [
        (("She ran.", "She ran. Fast."), {}),
        (("{=name} ran.", "Then she ran."), {}),
        (("The {=pet} ran.", "The dog ran."), {}),
        (("The {=pet}s ran.",), {}),
        (("The {=pet}",), {}),
        (("The {=food} was good.",), {"food": words("apple", "apple pie")}),
        (("The {=food} was good.",), {"food": words("apple", "apple")}),
        (("{=who} house.",), {"who": words("Ann", "Ann's")}),
    ],
)
def test_programs_that_could_be_misread_are_refused(forms: tuple[str, ...], classes: dict[str, Words]) -> None:
    with pytest.raises(AmbiguityError):
        sample(program_of(*forms, words=TINY_LEXICON | classes), Random(0))


def test_forms_that_only_the_facts_confuse_are_refused_when_they_do() -> None:
    first, second = uniform_beat(("{hero=name}: ",)), uniform_beat(("{hero} ran.", "Bob ran."))
    program = Program(lambda teller: (teller.tell(first), teller.tell(second))[1], TINY_LEXICON)
    assert parse_with(program, "Ann: Bob ran.").log_prob == pytest.approx(math.log(5 / 8 / 2))
    with pytest.raises(AmbiguityError):
        parse_with(program, "Bob: Bob ran.")
    with pytest.raises(AmbiguityError):
        for _ in enumerate_stories(program):
            pass


def test_words_that_only_begin_alike_are_told_apart() -> None:
    program = program_of("The {pet=pet} ran.")
    assert [parse_with(program, f"The {pet} ran.").text for pet in ("cat", "catfish")]
    with pytest.raises(StoryError):
        parse_with(program, "The catf ran.")


def test_a_slot_of_no_class_and_a_class_used_up_are_reported() -> None:
    with pytest.raises(ValueError, match="unicorn"):
        sample(program_of("A {=unicorn}."), Random(0))
    with pytest.raises(ValueError, match="more words"):
        sample(program_of("{a=one} and {b=one!a}.", words={"one": words("x")}), Random(0))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("owl", "an owl"),
        ("kite", "a kite"),
        ("uniform", "a uniform"),
        ("honest", "an honest"),
        ("unusual", "an unusual"),
    ],
)
def test_article(word: str, expected: str) -> None:
    assert article(word) == expected


# --- the real program


def test_parse_gives_back_text_and_log_probability_exactly() -> None:
    for told in SAMPLE:
        assert parse(told.text) == told


def beats_of(plot: Plot) -> list[Beat]:
    """The beats of a story with this plot, in the order in which they are told."""
    before = (*OPENING, *OUTING, uniform_beat(plot.troubles), *REACTION)
    return [*before, *plot.solution, *ENDING, plot.moral]


class FirstOfEach(Writer):
    """Takes the first form and the first word of each choice, and multiplies up how many words there were."""

    n_stories = 1

    def choose_form(self, beat: CompiledBeat) -> int:
        return 0

    def choose_option(self, slot: Slot, excluded: frozenset[int]) -> int:
        allowed = [option for option in range(len(slot.texts)) if option not in excluded]
        self.n_stories *= len(allowed)
        return allowed[0]


def n_tellings(beat: Beat) -> int:
    """In how many ways a beat can be told with two words per class, one where another word is excluded."""
    slots = [re.findall(r"\{[^{}]*=[^{}]*\}", form) for form in beat.forms]
    return sum(math.prod(1 if "!" in slot else 2 for slot in free) for free in slots)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_beat_of_every_plot_is_a_probability_distribution(plot: Plot) -> None:
    """By full enumeration with two words per class, each beat after the first choices of those before it."""
    small = {
        name: replace(group, entries=group.entries[:2], weights=group.weights[:2]) for name, group in lexicon().items()
    }
    before = FirstOfEach(Program(tell_story, small))
    for beat in beats_of(plot):

        def tell(teller: Teller, beat: Beat = beat) -> None:
            teller.facts.update(before.facts)
            teller.tell(beat)

        told = list(enumerate_stories(Program(tell, small)))
        assert len({story.text for story in told}) == len(told) == n_tellings(beat)
        assert abs(math.fsum(math.exp(story.log_prob) for story in told) - 1) < 1e-12
        before.tell(beat)


def test_there_are_more_than_10_to_the_12_stories() -> None:
    """Counts stories that differ in their words alone, all forms being the first: far from all of them."""
    teller = FirstOfEach(story_program())
    tell_story(teller)
    assert is_valid(teller.story().text)
    assert teller.n_stories > 10**12


def word_bound(best: Callable[..., int]) -> int:
    """Words of the longest (max) or shortest (min) story: every form and every word taken at its extreme."""
    classes = dict(
        re.findall(
            r"\{(?:a )?(\w+)(?:\.\w+)?=(\w+)", " ".join(chain(*(b.forms for plot in PLOTS for b in beats_of(plot))))
        )
    )
    groups = lexicon()

    def n_slot_words(slot: str) -> int:
        match = re.fullmatch(r"(a )?(\w*)\.?(\w*)(?:=(\w+))?[!\w]*", slot)
        assert match is not None
        with_article, name, form, group = match.groups()
        entries = groups[group or classes[name]].entries
        return bool(with_article) + best(len(entry[form].split()) for entry in entries)

    def n_words(beat: Beat) -> int:
        return best(
            len(re.sub(r"\{.*?\}", "x", form).split())
            + sum(n_slot_words(s) - 1 for s in re.findall(r"\{(.*?)\}", form))
            for form in beat.forms
        )

    return best(sum(map(n_words, beats_of(plot))) for plot in PLOTS) + len(CLOSING.split())


def test_every_story_has_60_to_190_words() -> None:
    shortest, longest = word_bound(min), word_bound(max)
    lengths = [len(told.text.split()) for told in SAMPLE]
    assert 60 <= shortest <= min(lengths)
    assert max(lengths) <= longest <= 190
    assert 100 <= sum(lengths) / len(lengths) <= 130


def test_entropy_is_that_of_structure_and_memory_not_of_random_words() -> None:
    bits = -sum(told.log_prob for told in SAMPLE) / math.log(2)
    assert 0.9 < bits / sum(len(told.text.split()) for told in SAMPLE) < 1.6
    assert 0.19 < bits / sum(len(told.text) for told in SAMPLE) < 0.35


def test_more_than_1500_words_are_used() -> None:
    in_lexicon = {
        word
        for group in lexicon().values()
        for entry in group.entries
        for text in entry.values()
        for word in re.findall(r"[a-z'-]+", text.lower())
    }
    text = " ".join(told.text for told in stories(1, 2000)).lower()
    in_stories = {word.removesuffix("'s") for word in re.findall(r"[a-z'-]+", text)}
    assert len(in_lexicon) >= 1500
    assert len(in_stories) >= 1500


def test_text_is_ascii_in_three_paragraphs_with_single_spaces() -> None:
    for told in SAMPLE:
        assert told.text.isascii()
        assert told.text.count("\n") == 2
        assert not re.search(r"\s\s|\s$|^\s|[{}%]", told.text)
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouh]", told.text)
        assert told.text.count('"') % 2 == 0


def test_the_closing_sentence_stands_at_the_end_and_nowhere_else() -> None:
    assert all(told.text.endswith(" " + CLOSING) and told.text.count(CLOSING) == 1 for told in SAMPLE)


def test_words_are_drawn_by_their_weights() -> None:
    family = lexicon()["family"]
    n = len(SAMPLE)
    opening = r"^[^\n]*?(?:with|and) (?:his|her) ([a-z]+(?: sister| brother)?)(?: in|\.| lived in) "
    counts = Counter(re.match(opening, told.text)[1] for told in SAMPLE)  # type: ignore[index]
    assert sum(counts.values()) == n
    for entry, weight in zip(family.entries, family.weights, strict=True):
        expected = n * weight / sum(family.weights)
        assert abs(counts[entry[""]] - expected) < 5 * math.sqrt(expected)
    assert abs(counts["mother"] - n / len(family.weights)) > 5 * math.sqrt(n / len(family.weights))  # not uniform


def test_a_story_depends_on_seed_and_index_alone() -> None:
    assert [told.text for told in stories(3, 4, start=10)] == [story(3, index).text for index in range(10, 14)]
    assert story(0, 5) == SAMPLE[5]
    assert len({story(seed, 0).text for seed in range(-5, 5)}) == 10


def test_stories_are_the_same_on_every_platform() -> None:
    """When the grammar or the lexicon is changed on purpose, these change with it."""
    assert hashlib.sha256("".join(told.text for told in stories(1, 100)).encode()).hexdigest() == (
        "484f089842add506ce447c5201b0269c66045164de21cc3dca588fea953482c8"
    )
    assert hashlib.sha256(story(2**70, 10**12).text.encode()).hexdigest() == (
        "cc66a25dc3c32e147833e096c22110217c3e95f8593748ab873daf0731de17bb"
    )


# --- texts that are not stories


def test_a_wrong_character_is_found_where_it_is() -> None:
    with pytest.raises(StoryError) as caught:
        parse(SAMPLE[0].text.replace(CLOSING, "The End."))
    position = SAMPLE[0].text.index(CLOSING) + len("The ")
    assert (caught.value.position, caught.value.expected, caught.value.found) == (
        position,
        "'end.'",
        "'End.'",
    )
    assert isinstance(caught.value, DataError)
    assert str(position) in str(caught.value)


@given(index=st.integers(0, 999), where=st.floats(0, 1, exclude_max=True))
def test_a_foreign_character_is_rejected_at_its_position(index: int, where: float) -> None:
    text = SAMPLE[index].text
    position = int(where * len(text))
    with pytest.raises(StoryError) as caught:
        parse(text[:position] + "#" + text[position + 1 :])
    assert caught.value.position == position
    assert is_valid(text)


@given(
    index=st.integers(0, 999),
    where=st.floats(0, 1, exclude_max=True),
    new=st.one_of(st.just(""), st.characters(), st.text(max_size=3)),
    n_removed=st.integers(0, 3),
)
def test_a_mutant_is_rejected_or_is_itself_a_story(index: int, where: float, new: str, n_removed: int) -> None:
    told = SAMPLE[index]
    position = int(where * len(told.text))
    mutant = told.text[:position] + new + told.text[position + n_removed :]
    if is_valid(mutant):
        assert mutant == told.text or new.isalpha()  # another word of the same class
        assert parse(mutant).text == mutant


def test_nearly_all_single_letter_changes_are_rejected() -> None:
    random = Random(0)
    n, n_valid = 1000, 0
    for told in SAMPLE[:n]:
        position = random.randrange(len(told.text))
        letter = random.choice("abcdefghijklmnopqrstuvwxyz")
        mutant = told.text[:position] + letter + told.text[position + 1 :]
        n_valid += mutant != told.text and is_valid(mutant)
    assert n_valid < n * 0.005


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text + " ",
        lambda text: text + "\n",
        lambda text: text + " " + text,
        lambda text: " " + text,
        lambda text: text.removesuffix(" " + CLOSING),
        lambda text: text[:-1],
        lambda text: text.replace(" ", "  ", 1),
        lambda text: text.replace("\n", " ", 1),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.lower(),
        lambda text: text[: len(text) // 2],
        lambda text: "",
    ],
)
def test_damaged_stories_are_rejected(damage: Callable[[str], str]) -> None:
    for told in SAMPLE[:50]:
        assert is_valid(told.text)
        assert not is_valid(damage(told.text))


def test_a_hero_whose_name_changes_midway_is_rejected() -> None:
    n_checked = 0
    for told in SAMPLE[:150]:
        name = re.search(r"(?:girl|boy) named (\w+)", told.text)[1]  # type: ignore[index]
        _, *others = re.finditer(rf"\b{name}\b", told.text)
        for other in others:
            n_checked += 1
            stranger = "Emil" if name != "Emil" and "Emil" not in told.text else "Tess"
            assert not is_valid(told.text[: other.start()] + stranger + told.text[other.end() :])
    assert n_checked > 300
