"""Three plots about things: one lost, one broken, one that grows. Templates only."""

from smalllm.data.stories.plot import plot

LOST = plot(
    openers="""
    {hero} could not find {hero.his} {look=look} {thing=thing}.
    {hero} lost {hero.his} {look=look} {thing=thing}.
    {hero} wanted to play, but {hero.his} {look=look} {thing=thing} was gone.
    """,
    problem="""
    It was a gift from {hero.his} {giver=family!family}, and {hero.he} loved it very much.
    {hero.His} {giver=family!family} had given it to {hero.him}, so it was very special.
    {hero} had got the {thing} from {hero.his} {giver=family!family} and took it everywhere.
    The {thing} was very dear to {hero.him}, for it came from {hero.his} {giver=family!family}.

    First, {hero.he} looked {spot=spot}, but there was no {thing}.
    {hero} looked {spot=spot}, but the {thing} was not there.
    {hero.He} searched {spot=spot} and found only {a =look} {=thing!thing}.
    At the {place}, {hero.he} {=adverb} looked {spot=spot}, but found nothing.

    {friend} came by and asked {=adverb}, "Why are you so sad, {hero}?"
    Then {friend} came running and said, "I will help you find it."
    {hero.He} felt {=sad} and told {friend}, who said {=adverb}, "Do not worry, we will look together."
    Luckily, {friend} heard {hero.him} and brought {a =job} who could help.
    """,
    ending="""
    At last, {friend} saw something {look} {=spot!spot}. It was the {thing}!
    Then {hero} looked {=spot!spot}, and there was the {look} {thing}!
    Just then, {a =animal} ran past, and {=spot!spot} they saw the {look} {thing}.
    They looked again, and {=spot!spot} lay the {look} {thing}.

    "You found my {thing}!" cried {hero}, and {hero.he} hugged {friend}.
    "Here is your {look} {thing}," said {friend} {=adverb}.
    {hero} ran home {=adverb} and showed the {look} {thing} to {hero.his} {giver}.
    To say thank you, {hero} gave {friend} some {=food}.

    {hero} learned that friends can find what one alone cannot.
    It is good to have a friend who helps you look.
    We take good care of what we love.
    When something is lost, do not give up too soon.
    """,
)

BROKEN = plot(
    openers="""
    {hero} played with the {look=look} {thing=thing} of {hero.his} {family}.
    {hero} took the {look=look} {thing=thing} of {hero.his} {family} without asking.
    {hero} wanted to show {friend} the {look=look} {thing=thing} that {hero.his} {family} loved.
    """,
    problem="""
    It slipped from {hero.his} hands and broke with a {=sound}.
    But {hero.he} ran too fast, and the {thing} fell with a {=sound} and broke.
    There was a {=sound}, and the {look} {thing} lay broken on the floor.
    Then {a =animal} made {hero.him} jump, and the {thing} fell down and broke.

    {hero} was {=sad} and hid the pieces {spot=spot}.
    Quickly, {hero.he} hid the broken {thing} {spot=spot}.
    "Oh no!" cried {hero}, and {hero.he} put the pieces {spot=spot}.
    {hero.He} felt so {=sad} that {hero.he} hid the {thing} {spot=spot}.

    {friend} said {=adverb}, "You should tell the truth."
    "Tell your {family} what happened," said {friend}. "I will come with you."
    Then {hero} told {friend}, who said {=adverb}, "It is better to be honest."
    But {friend} saw it and told {hero.him} {=adverb} not to hide it.

    So {hero} said to {hero.his} {family}, "I broke your {look} {thing}. I am very sorry."
    {hero} took the pieces from {spot} and told {hero.his} {family} everything.
    "The {look} {thing} is broken, and I did it," {hero} told {hero.his} {family}.
    That evening, {hero} {=adverb} gave the broken {thing} to {hero.his} {family}.

    "Thank you for telling me," said {hero.his} {family}. "{elder=elder}, {a =job}, can mend it."
    {hero.His} {family} was not angry, and they went to see {elder=elder}, {a =job}.
    Together they took the {thing} to {elder=elder}, {a =job} who lived near the {place}.
    They brought the {look} {thing} to {elder=elder}, the best {=job} in {village}.
    """,
    ending="""
    {elder} took {a =tool} and some {=material}, and soon the {thing} was as good as new.
    With {a =tool} and some {=material}, {elder} mended the {look} {thing} {=adverb}.
    There, {elder} worked {=adverb} with {a =tool} until the {look} {thing} was whole again.

    {hero} hugged {hero.his} {family} and promised {=adverb} to be more careful.
    Now the {look} {thing} stands {=spot}, and no one is {=sad} anymore.
    "I am {=happy} that you told me," said {hero.his} {family}.

    {hero} learned that the truth is always better than hiding.
    A broken thing can be mended, and so can a mistake.
    When we do something wrong, it helps to say that we are sorry.
    It takes courage to tell the truth, but then the heart is light.
    """,
)

FLOWERS = plot(
    openers="""
    {hero} found a bag of {flower=flower} seeds.
    {hero} was given some {flower=flower} seeds by {hero.his} {family}.
    {hero} decided to grow {flower.many=flower}.
    """,
    problem="""
    {hero.He} planted the seeds in {a look=look} {box=box} and gave them water.
    {friend} brought {a look=look} {box=box} with good soil, and they planted the seeds {=adverb}.
    The seeds went into {a look=look} {box=box} that stood {=spot}.
    Near the {place}, {hero.he} filled {a look=look} {box=box} with soil and put the seeds in.

    Every {time}, {hero} went to look, but for {number=number} days nothing grew.
    They waited for {number=number} days, but there was not one {flower}.
    After {number=number} days, the {box} was still empty. "Will they ever grow?" asked {hero}.
    But {number=number} days went by without one green leaf, and {hero} felt {=sad}.

    But {elder=elder}, {a job=job}, said {=adverb}, "Good things need time."
    They asked {elder=elder}, {a job=job}, who said, "Sun, water, and time make {a flower} grow."
    Then {hero} met {elder=elder}, {a job=job}, who told {hero.him} to wait {number} more days.
    "Do not give up," said {elder=elder}, {a job=job} who knew a lot about {flower.many}.
    """,
    ending="""
    Then one {=weather} morning, the {look} {box} was full of {colour=colour} {flower.many}.
    A week later, there were {=number} {colour=colour} {flower.many} in the {look} {box}.
    {hero} waited, and soon the first {flower} opened. It was {colour=colour}.
    At last {friend} called {=adverb}, "Come and see! The {flower.many} are {colour=colour}!"

    {hero} gave one {colour} {flower} to {friend} and one to {elder}.
    {hero} took some {colour} {flower.many} to {elder}, the {job}.
    "Look at my {colour} {flower.many}!" {hero} told {hero.his} {family} {=adverb}.
    The {colour} {flower.many} smelled sweet, and {a =animal} came to look at them.

    {hero} learned that good things take time.
    Those who wait with care will see the flowers.
    A little patience makes great things grow.
    Every big thing begins as a small seed.
    """,
)

PLOTS = (LOST, BROKEN, FLOWERS)
