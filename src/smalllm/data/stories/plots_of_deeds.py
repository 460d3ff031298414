"""Three plots about deeds: a visit, a race, a skill learned. Templates only."""

from smalllm.data.stories.plot import plot

VISIT = plot(
    openers="""
    {hero} heard people say that {elder=elder} was ill.
    {hero} was told that {elder=elder} was ill.
    {hero} and {friend} learned that {elder=elder} was ill in bed.
    """,
    problem="""
    {elder} was {a job=job}, and {elder.he} had always been kind to the children.
    {elder} had been {a job=job} for {=number} years and knew many stories.
    Everyone in {village} knew {elder}, {a job=job} with {a =colour} {=clothes}.
    They liked {elder}, {a job=job} who often played {=game} with them.

    "Let us take {elder.him} some {food=food}," said {hero} {=adverb}.
    So {hero} and {hero.his} {family} packed some {food=food}.
    {friend} said, "{elder} loves {food=food}, so let us bring some."
    They had some {food=food} and wanted to share with {elder.him}.

    They put the {food} in {a look=look} {box=box} and picked some {flower.many=flower}.
    Then {hero} found {a look=look} {box=box} for the {food}, and {friend} picked {flower.many=flower}.
    The {food} went into {a look=look} {box=box}, with some {flower.many=flower} on top.
    With some {flower.many=flower} and {a look=look} {box=box} of {food}, they left {=adverb}.

    On the way, {hero} fell, but {hero.he} held the {box} {=adverb}.
    The road past the {place} was long, and {a =animal} followed them.
    Near the {place}, they saw {a =coat} {=animal}, but they did not stop.
    When they came to the house, {elder} was alone and {=sad}.
    {elder} was in bed and felt {=sad}.
    """,
    ending="""
    When {elder} saw the {look} {box}, {elder.he} smiled {=adverb}.
    "We brought you {food} and {flower.many}," said {friend} {=adverb}.
    {hero} gave {elder.him} the {look} {box} and the {flower.many}.
    "Thank you for the {food}," said {elder}. "You are such good children."

    The {food} tasted good, and {elder} told them a story about {a =job} and {a =animal}.
    A week later, {elder} was well again and gave {hero} {a =colour} {=thing}.
    {friend} put the {flower.many} in a glass, and they played {=game} until it was dark.
    {elder}, the old {job}, never forgot the {food} and the {flower.many}.

    {hero} learned that a short visit can be the best medicine.
    Kindness warms the heart like a good fire.
    No one should be alone when they are ill.
    A little care can make a neighbor strong again.
    """,
)

RACE = plot(
    openers="""
    there was a big race in {village}.
    all the children of {village} came to a race.
    {hero} and {friend} wanted to run in a race.
    """,
    problem="""
    They had to run from the {place} to the {goal=place!place}.
    The race went from the {place} to the {goal=place!place} and had {=number} turns.
    "You must run from the {place} to the {goal=place!place}," said {a =job}.

    The prize was {a look=look} {thing=thing}.
    The fastest child would win {a look=look} {thing=thing}.
    On {a =colour} table stood {a look=look} {thing=thing} for the winner.
    "I want to win the {look=look} {thing=thing}," said {hero} {=adverb}.

    When the bell rang, {hero} ran {=adverb}, and soon {hero.he} was first.
    They all began to run, and {hero} in {hero.his} {=colour} {=clothes} was ahead.
    Soon only {friend} was in front of {hero}, and they ran {=adverb}.
    {hero.His} {family} called {=adverb}, and soon {hero.he} was far ahead.

    Then {friend} fell over {a =animal} and hurt {friend.his} knee.
    But {friend} fell with a {=sound} and could not get up.
    Near {a =tree} tree, {friend} hurt {friend.his} foot and felt {=sad}.
    Suddenly, {friend} was {=sad} and sat down {=spot}.

    "Go on without me," said {friend}, but {hero} stopped.
    {hero} thought of the {look} {thing}, but {hero.he} turned around.
    "I will not leave you," said {hero} {=adverb}.
    At once, {hero} forgot the {look} {thing} and helped {friend.him} up.
    """,
    ending="""
    They came to the {goal} last of all, but everyone clapped.
    At the {goal}, the people of {village} cheered {=adverb}.
    When they came to the {goal}, {a =job} gave them {=food}.
    Step by step, the two friends walked {=adverb} to the {goal}.

    The winner let {hero} and {friend} play with the {look} {thing}.
    {hero} did not win the {look} {thing}, but {hero.he} did not mind.
    "A good friend is better than {a look} {thing}," said {friend}.
    Another child got the {look} {thing}, but {hero} was {=happy}.

    {hero} learned that a friend is worth more than a prize.
    Those who help have already won.
    It is not always the fastest who wins the most.
    It is better to be last together than first alone.
    """,
)

SKILL = plot(
    openers="""
    {hero} decided to learn how to {skill=skill}.
    {hero} watched {friend} {skill.ing=skill} near the {place}.
    {hero} wished that {hero.he} could {skill=skill} like {friend}.
    """,
    problem="""
    {hero} tried it, but something fell down with a {=sound}.
    The first time, it went all wrong, and some children laughed.
    {hero.He} tried {=number} times, but it did not work.
    It looked easy, but {hero} could not {skill} at all.

    Then {elder=elder}, {a job=job}, said {=adverb}, "I can teach you."
    "Do not give up," said {elder=elder}, {a job=job} who knew all about {skill.ing}.
    {friend} took {hero.him} to {elder=elder}, {a job=job} who could {skill}.
    Luckily, {elder=elder}, {a job=job}, had also learned {skill.ing}.

    For luck, {elder} gave {hero.him} {a colour=colour} {clothes=clothes}.
    "Wear this {colour=colour} {clothes=clothes}," said {elder}, "and try it {=adverb}."
    {hero} put on {a colour=colour} {clothes=clothes}, and {elder} showed {hero.him} what to do.
    They met at the {place}, where {hero} wore {a colour=colour} {clothes=clothes}.

    Every {time}, {hero} went out and practiced {skill.ing}.
    For {=number} weeks, {hero.he} practiced {skill.ing} {=adverb} with {elder}.
    Day after day, {hero} went to the {place} to practice {skill.ing}.
    "Good!" said {elder} {=adverb} after {=number} weeks.
    """,
    ending="""
    Then there was a big show, and {hero} in the {colour} {clothes} {skill.past} {=adverb}.
    At last the day came when {hero}, in the {colour} {clothes}, could {skill}.
    "Look, {hero} can {skill}!" cried {friend} {=adverb}.
    {hero} {skill.past} so well that everyone clapped.

    "Thank you, {elder}," said {hero}. "Now I love {skill.ing}."
    {hero} and {friend} {skill.past} together until it was dark.
    {elder}, the {job}, was proud and gave {hero} {a =look} {=thing}.
    Now {hero} teaches {skill.ing} to all the children of {village}.

    {hero} learned that practice makes us better.
    Nobody can do everything the first time.
    If you try again and again, you will learn it in the end.
    With a good teacher and a little courage, we can learn anything.
    """,
)

PLOTS = (VISIT, RACE, SKILL)
