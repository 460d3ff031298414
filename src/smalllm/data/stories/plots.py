"""The plots: what goes wrong on the day, how it is put right, and what is learned. Templates only.

Every plot finds the hero, the friend, a toy and something to eat at a place, as `grammar.py` tells it.
"""

from dataclasses import dataclass

from smalllm.data.stories.templates import Beat, beats


@dataclass(frozen=True, slots=True)
class Plot:
    """One kind of story.

    Attributes:
        troubles: how the trouble begins. No two plots share one: the trouble tells the plot.
        solution: how it ends well, beat by beat.
        moral: what was learned.
    """

    troubles: tuple[str, ...]
    solution: tuple[Beat, ...]
    moral: Beat


def plot(text: str) -> Plot:
    """A plot from text: a line per form, a blank line between beats; troubles, solution, moral."""
    troubles, *solution, moral = beats(text)
    return Plot(troubles.forms, tuple(solution), moral)


LOST_TOY = plot("""
On the way home, the {look} {thing} fell out of the bag.
When {hero} looked into the bag, the {look} {thing} was gone.
Suddenly, {hero} could not find the {look} {thing}.

So {friend} looked everywhere and found the {thing} {=spot}.
They went back to the {place} and found the {thing} {=spot}.
In the end, {hero} saw the {thing} {=spot}.

What is lost can be found again.
{hero} learned to look after {hero.his} things.
""")

TOY_IN_A_TREE = plot("""
The wind blew the {look} {thing} up into {a tree=tree} tree.
Then {hero} threw the {look} {thing} high into {a tree=tree} tree.
A bird took the {look} {thing} and dropped it into {a tree=tree} tree.

So {friend} climbed up the {tree} tree and threw down the {thing}.
In the end, {hero} shook the {tree} tree until the {thing} fell down with a {=sound}.
They put a ladder on the {tree} tree and got the {thing}.

Friends help each other, high and low.
{hero} learned that a friend is a great help.
""")

BROKEN_TOY = plot("""
With a {=sound}, the {look} {thing} fell on a stone and broke.
But {friend} sat on the {look} {thing}, and it broke with a {=sound}.
Just then, the {look} {thing} fell down with a {=sound} and broke.

They went to see {=elder}, {a job=job} with {a tool=tool} and some {material=material}.
Luckily, {=elder}, {a job=job}, came by with {a tool=tool} and some {material=material}.
Near the {place} lived {=elder}, {a job=job} with {a tool=tool} and some {material=material}.

With the {tool} and the {material}, the {job} fixed the {thing}.
The {job} took the {tool} and fixed the {thing} with the {material}.

What is broken can be fixed.
{hero} learned that it is good to ask for help.
""")

STOLEN_TOY = plot("""
All at once, {a thief=animal!animal} took the {look} {thing} and ran off.
Out of the trees came {a thief=animal!animal} that took the {look} {thing}.
While they ate, {a thief=animal!animal} took the {look} {thing}.

So {friend} gave the {thief} some {food}, and the {thief} gave back the {thing}.
"Please give back the {thing}," said {hero}, and the {thief} was {=sad} and did.
They ran after the {thief} and found the {thing} {=spot}.

It is better to ask than to take.
{hero} learned that kind words are strong.
""")

HUNGRY_STRANGER = plot("""
At the {place} sat {a coat=coat} {other=animal!animal} that had nothing to eat.
There they met {a coat=coat} {other=animal!animal} that was all alone.
From far away, they heard {a coat=coat} {other=animal!animal} cry.

So {hero} gave the {other} all of the {food}, and {friend} brought {a colour=colour} {clothes=clothes}.
They wrapped the {other} in {a colour=colour} {clothes=clothes} and gave it some {food}.
In the end, {friend} took the {other} home, where it got some {food} and {a colour=colour} {clothes=clothes}.

The {other} wore the {colour} {clothes} for {=number} days.
"I love the {colour} {clothes}," said the {other} {=adverb}.

What we give away comes back to us.
{hero} learned that it is good to share.
""")

QUARREL = plot("""
Then {friend} wanted the {look} {thing}, but {hero} wanted it too.
But {hero} did not let {friend} hold the {look} {thing}.
Soon {hero} and {friend} began to fight over the {look} {thing}.

"You can have the {thing} first," said {friend} {=adverb}.
"Let us share the {thing}," said {hero} {=adverb}.
They took turns with the {thing}, and each had it for {=number} minutes.

It is better to share than to fight.
{hero} learned that a friend is worth more than gold.
""")

STORM = plot("""
Then the sky turned {colour=colour}, and a storm came.
Suddenly, the sky was {colour=colour}, and they could not see the way home.
But the way home was long, and the sky was {colour=colour}.

Luckily, {=elder}, {a job=job}, came along with {a box=box} of {=food}.
They ran and met {=elder}, {a job=job}, who had {a box=box} of {=food}.
In the rain stood {=elder}, {a job=job} with {a box=box} of {=food}.

{hero} carried the {box} for the {job}, and soon they were home.
"Take the {box} and come with me," said the {job}, and soon they were home.

After the rain comes the sun.
{hero} learned to be brave in the dark.
""")

HURT_FRIEND = plot("""
Then {friend} fell and could not walk.
Just then, {friend} stepped on {a =tool} and could not walk.
On the way back, {friend} was ill and had to lie down.

So {hero} ran to {=elder}, {a job=job}, who had some {flower.many=flower}.
Luckily, {=elder}, {a job=job}, came along with some {flower.many=flower}.
In the end, {hero} carried {friend} to {=elder}, {a job=job} with some {flower.many=flower}.

The {job} made tea from the {flower.many}, and soon {friend} was well.
"Smell the {flower.many}," said the {job}, and soon {friend} was well.

A good friend is there when it matters.
{hero} learned to take care of others.
""")

CONTEST = plot("""
At the {place}, all could {skill=skill}, but {friend} could not.
That day, {=number} children wanted to {skill=skill}, but {friend} could not.
It was time to {skill=skill}, but {friend} did not know how.

So {hero} showed {friend} how to {skill}, and it took {=number} days.
Day after day, {hero} and {friend} went {skill.ing} at the {place}.
"I will show you how to {skill}," said {hero} {=adverb}.

At last, {friend} {skill.past} better than all the others.
Soon {friend} {skill.past} and was no longer afraid.

Nothing is easy the first time.
{hero} learned that practice makes things easy.
""")

HEAVY_LOAD = plot("""
On the path stood {=elder}, {a job=job} with a heavy {box=box}.
There they saw {=elder}, {a job=job} who could not lift a {box=box}.
Near the {place}, {=elder}, {a job=job}, had fallen over a {box=box}.

So {hero} and {friend} carried the {box} for the {job}.
In the end, {friend} took one side of the {box}, and {hero} took the other.
"We can help you," said {hero}, and they carried the {box}.

In the {box} were {=number} {flower.many=flower}, and the {job} gave them to {hero}.
The {job} thanked them and gave them {=number} {flower.many=flower}.

Many hands make light work.
{hero} learned that a little help means a lot.
""")

PLOTS = (
    LOST_TOY,
    TOY_IN_A_TREE,
    BROKEN_TOY,
    STOLEN_TOY,
    HUNGRY_STRANGER,
    QUARREL,
    STORM,
    HURT_FRIEND,
    CONTEST,
    HEAVY_LOAD,
)
