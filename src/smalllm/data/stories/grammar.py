"""The story program: how every story opens, goes through one plot, and closes.

Three paragraphs: a hero, a home, a toy and a friend; an outing and its trouble; how it ended and what was
learned. Names, things and places that were introduced come back later, so that a model must remember them.
Most sentences serve every plot, so that a small model meets each often enough to learn what it refers to.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from random import Random

from smalllm.data.stories.engine import Program, Story, StoryError, Teller, parse_with, sample
from smalllm.data.stories.lexicon import lexicon
from smalllm.data.stories.plots import PLOTS
from smalllm.data.stories.templates import Beat, beats, uniform_beat

CLOSING = "The end."
"""The last sentence of every story; it stands nowhere else."""

OPENING = beats("""
Once upon a time, there was {a trait=trait} {hero.intro=child}.
Once there lived {a trait=trait} {hero.intro=child}.
Long ago, there lived {a trait=trait} {hero.intro=child}.
This is the story of {a trait=trait} {hero.intro=child}.

{hero} lived in {village=village} with {hero.his} {family=family}.
{hero.He} lived with {hero.his} {family=family} in {village=village}.
{hero} and {hero.his} {family=family} lived in {village=village}.

{hero.He} had {a look=look} {thing=thing} and played with the {thing} every {=time}.
{hero.His} {family} had given {hero.him} {a look=look} {thing=thing}, and {hero} loved the {thing}.
Of all {hero.his} toys, {hero} liked the {look=look} {thing=thing} best.
For {hero.his} birthday, {hero} got {a look=look} {thing=thing} from {hero.his} {family}.

{hero.His} best friend was {a =trait} {animal=animal} named {friend=pet}.
{hero.He} had a friend, {a =trait} {animal=animal} named {friend=pet}.
Next door lived {a =trait} {animal=animal} named {friend=pet}.
{hero} often played {=game} with {a =trait} {animal=animal} named {friend=pet}.
""")

OUTING = beats("""
One {weather=weather} {time=time}, {hero} and {friend} went to the {place=place}.
On {a weather=weather} {time=time}, {hero} took {friend} to the {place=place}.
It was {a weather=weather} {time=time}, and {hero} met {friend} at the {place=place}.

They ate {food=food} and played {=game}.
"I have some {food=food}," said {friend}, and they ate {=adverb}.
{hero} had brought {food=food} and the {look} {thing}.
"Let us play {=game}," said {hero}, "and then we can eat {food=food}."
""")

TROUBLES = uniform_beat(tuple(trouble for plot in PLOTS for trouble in plot.troubles))
PLOT_OF_TROUBLE = tuple(plot for plot in PLOTS for _ in plot.troubles)

REACTION = beats("""
{hero} felt {=sad} and began to cry.
{hero} was {=sad}, and {friend} was {=sad} too.
"I am so {=sad}," said {hero}.
"Do not be {=sad}," said {friend} {=adverb}.

"I have an idea," said {friend} {=adverb}.
"What can we do?" asked {hero}.
{hero} thought for {=number} minutes.
The {animal} looked at {hero} {=adverb}.
""")

ENDING = beats("""
{hero} hugged {friend} {=adverb} and felt {=happy}.
"Thank you for your help, {friend}," said {hero} {=adverb}.
{hero} was {=happy}, and {friend} was {=happy} too.
"You are the best {animal} in {village}," said {hero} {=adverb}.

In the evening, {hero} told {hero.his} {family} about the {place}.
They went back to {village} and ate more {food} with {hero.his} {family}.
At home, {hero.his} {family} was {=happy} and made {=food} for {friend}.
That night, {hero} went to bed with the {look} {thing}.
""")


def tell_story(teller: Teller) -> None:
    """Tell one story of three paragraphs, the closing sentence at the end of the last."""
    _tell_all(teller, OPENING)
    teller.say("\n")
    _tell_all(teller, OUTING)
    teller.say(" ")
    plot = PLOT_OF_TROUBLE[teller.tell(TROUBLES)]
    teller.say(" ")
    _tell_all(teller, REACTION)
    teller.say("\n")
    _tell_all(teller, (*plot.solution, *ENDING, plot.moral))
    teller.say(f" {CLOSING}")


def story(seed: int, index: int) -> Story:
    """Story number `index` of the corpus that `seed` names: the same on every platform, now and later.

    Args:
        seed: which of endlessly many corpora.
        index: which story of it; stories are independent of each other, so any can be made alone.
    """
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).digest()
    return sample(story_program(), Random(int.from_bytes(digest, "big")))


def stories(seed: int, n: int, *, start: int = 0) -> Iterator[Story]:
    """Stories `start` to `start + n - 1` of the corpus that `seed` names."""
    return (story(seed, index) for index in range(start, start + n))


def parse(text: str) -> Story:
    """The story with this text, and so the probability of the text.

    Raises:
        StoryError: the grammar cannot write this text; says where it departs and what could have stood there.
    """
    return parse_with(story_program(), text)


def is_valid(text: str) -> bool:
    """Whether the grammar can write this text, to the letter."""
    try:
        parse(text)
    except StoryError:
        return False
    return True


@cache
def fingerprint() -> str:
    """The sha256 of all sentences and words: stories told with another one are not of the same corpus."""
    parts = (OPENING, OUTING, REACTION, ENDING, PLOTS, lexicon(), story(0, 0))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def story_program() -> Program:
    """The program behind `story` and `parse`, with the whole lexicon."""
    return Program(tell_story, lexicon())


def _tell_all(teller: Teller, steps: tuple[Beat, ...]) -> None:
    for number, beat in enumerate(steps):
        if number:
            teller.say(" ")
        teller.tell(beat)
