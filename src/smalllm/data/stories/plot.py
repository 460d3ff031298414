"""What a plot is: the sentences of one kind of story, as alternatives. The plots themselves are elsewhere."""

from dataclasses import dataclass

from smalllm.data.stories.templates import Beat, beats, uniform_beat

_SCENES = """
After that, the {trait} {hero.kind} and the {trait2} {friend.kind} were even better friends.
In the evening, {hero} told {hero.his} {family} about it and felt {=happy}.
{hero} and {friend} were {=happy}, and all of {village} was proud of them.
{hero} felt {feeling=happy}, and {friend} felt {feeling} too.
From that {weather} {time} on, {hero} and {friend} often met near the {place}.
The {trait} {hero.kind} from {village} went to bed and felt {=happy}.
"""
"""last scenes that fit every plot; they bring back what the opening said"""


@dataclass(frozen=True, slots=True)
class Plot:
    """One kind of story.

    Attributes:
        openers: how it may begin, after "One sunny morning, ". No two plots share one: the opener tells the
            plot.
        problem: what happens then, beat by beat.
        ending: how it turns out, a last scene, and what was learned.
    """

    openers: tuple[str, ...]
    problem: tuple[Beat, ...]
    ending: tuple[Beat, ...]


def plot(*, openers: str, problem: str, ending: str) -> Plot:
    """A plot from text: a line per form, a blank line between beats.

    The beat before the last of `ending` is the last scene; those that fit every plot are added to it.
    """
    (opener,) = beats(openers)
    (shared,) = beats(_SCENES)
    *solution, scene, moral = beats(ending)
    return Plot(opener.forms, beats(problem), (*solution, uniform_beat(scene.forms + shared.forms), moral))
