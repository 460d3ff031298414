"""The story program: how every story opens, goes through one plot, and closes.

Three paragraphs: who and where; one day and its problem; how it ended and what was learned. What is said of
the hero, the friend and the things they meet comes back later, so that a model must remember it.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from random import Random

from smalllm.data.stories.engine import Program, Story, StoryError, Teller, parse_with, sample
from smalllm.data.stories.lexicon import lexicon
from smalllm.data.stories.plots_of_animals import PLOTS as ANIMALS
from smalllm.data.stories.plots_of_deeds import PLOTS as DEEDS
from smalllm.data.stories.plots_of_friends import PLOTS as FRIENDS
from smalllm.data.stories.plots_of_things import PLOTS as THINGS
from smalllm.data.stories.templates import Beat, beats, uniform_beat

CLOSING = "The end."
"""The last sentence of every story; it stands nowhere else."""

PLOTS = THINGS + FRIENDS + ANIMALS + DEEDS

OPENING = beats("""
Once upon a time, {a trait=trait} {hero.intro=child} from {village=village} had a kind {family=family}.
Once there lived {a trait=trait} {hero.intro=child} in {village=village} with {hero.his} {family=family}.
Long ago, {a trait=trait} {hero.intro=child} from {village=village} lived with {hero.his} {family=family}.
There was once {a trait=trait} {hero.intro=child} in {village=village} who lived with a kind {family=family}.
In {village=village}, there lived {a trait=trait} {hero.intro=child} and {hero.his} {family=family}.

{hero.His} best friend was {a trait2=trait!trait} {friend.intro=child!hero} who lived near the {place=place}.
Near the {place=place}, {hero.he} often met {a trait2=trait!trait} {friend.intro=child!hero}.
{hero} liked to go to the {place=place} with {a trait2=trait!trait} {friend.intro=child!hero}.
{hero.He} often played {=game} near the {place=place} with {a trait2=trait!trait} {friend.intro=child!hero}.
""")

(DAY,) = beats("""
One {weather=weather} {time=time},
On {a weather=weather} {time=time},
It was {a weather=weather} {time=time}, and
Then came {a weather=weather} {time=time}, and
""")

OPENERS = uniform_beat(tuple(opener for plot in PLOTS for opener in plot.openers))
PLOT_OF_OPENER = tuple(plot for plot in PLOTS for _ in plot.openers)


def tell_story(teller: Teller) -> None:
    """Tell one story of three paragraphs, the closing sentence at the end of the last."""
    _tell_all(teller, OPENING)
    teller.say("\n")
    teller.tell(DAY)
    teller.say(" ")
    plot = PLOT_OF_OPENER[teller.tell(OPENERS)]
    teller.say(" ")
    _tell_all(teller, plot.problem)
    teller.say("\n")
    _tell_all(teller, plot.ending)
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
def story_program() -> Program:
    """The program behind `story` and `parse`, with the whole lexicon."""
    return Program(tell_story, lexicon())


def _tell_all(teller: Teller, steps: tuple[Beat, ...]) -> None:
    for number, beat in enumerate(steps):
        if number:
            teller.say(" ")
        teller.tell(beat)
