"""Three plots about friends: a gift made, food shared, a wrong guess put right. Templates only."""

from smalllm.data.stories.plot import plot

GIFT = plot(
    openers="""
    {hero} remembered that it was almost {friend}'s birthday.
    {friend} told {hero} that {friend.his} birthday was near.
    {hero} heard that it would soon be {friend}'s birthday.
    """,
    problem="""
    To make a gift, {hero.he} took some {material=material} and some {colour=colour} paint.
    {hero} had no money, but {hero.he} found some {material=material} and {colour=colour} paint.
    There was {material=material} {=spot}, and {hero.his} {family} gave {hero.him} {colour=colour} paint.
    "I can make something," said {hero}, who had {material=material} and {colour=colour} paint.

    {hero} worked {=adverb} until the {material} became {a colour} {thing=thing}.
    Day after day, {hero.he} worked {=adverb}, and at last there was {a colour} {thing=thing}.
    Every {time}, {hero.he} worked, and little by little the {material} turned into {a colour} {thing=thing}.
    {hero.He} wanted to make {a colour} {thing=thing}, and it took {=number} days.

    But then the {thing} fell down with a {=sound}, and a piece broke off.
    But one side of the {thing} was crooked, and {hero} felt {=sad}.
    Suddenly, {a =animal} jumped on the table, and the {colour} {thing} broke.
    "It is not good enough," said {hero}, and {hero.he} was {=sad}.

    {hero.His} {family} helped {hero.him} fix the {thing} with more {material}.
    "We can make it better," said {hero.his} {family} {=adverb}, and they did.
    Then {elder=elder}, {a =job}, came by and helped {hero.him} with the {colour} {thing}.
    Luckily, {elder=elder}, {a =job}, knew what to do and had {a =tool}.
    """,
    ending="""
    "You made this {thing} for me?" asked {friend} at the party. "It is the best gift of all!"
    {friend} loved the {colour} {thing} more than all the other gifts.
    When {friend} saw the {colour} {thing}, {friend.he} hugged {hero} and said, "Thank you!"
    At the party, they ate {=food}, and {friend} held the {colour} {thing} {=adverb}.

    They ate {=food} and played {=game} until it was dark.
    The {colour} {thing} stood near {friend}'s bed for {=number} years.
    "Next time, I will make {a thing} for you," said {friend} {=adverb}.

    A gift that is made with love is worth more than gold.
    {hero} learned that a good gift does not need money.
    It is not the price of a gift that counts, but the heart.
    What we make with our own hands, we give with our whole heart.
    """,
)

SHARING = plot(
    openers="""
    {hero} got {a look=look} {box=box} full of {food=food} from {hero.his} {family}.
    {hero} sat near the {place} with {a look=look} {box=box} full of {food=food}.
    {hero} won {a look=look} {box=box} full of {food=food} at a fair.
    """,
    problem="""
    {friend} came along and asked {=adverb}, "May I have some {food}, please?"
    Then {friend} saw the {food} and asked {=adverb}, "Can we share?"
    {friend} was hungry and looked at the {look} {box}.
    "That smells good," said {friend} {=adverb} and came closer.

    "No," said {hero}. "The {look} {box} is mine." So {friend} went home and felt {=sad}.
    But {hero} shook {hero.his} head and hid the {box} {=spot}.
    {hero} said {=adverb}, "I do not have enough {food} for two."
    "It is all for me," said {hero}, and {friend} walked away.

    {hero} ate and ate, but the {food} did not taste good.
    {hero.He} began to eat the {food}, but it was no fun to eat alone.
    Soon {hero.he} had eaten so much of the {food} that {hero.his} tummy hurt.
    All alone with the {look} {box}, {hero} soon felt {=sad}.

    Then {hero.he} remembered that {friend} had once lent {hero.him} {a colour=colour} {thing=thing}.
    {hero} thought of the day when {friend} gave {hero.him} {a colour=colour} {thing=thing}.
    On the table lay {a colour=colour} {thing=thing} that {friend} had made for {hero.him}.
    "{friend} always lets me play with {a colour=colour} {thing=thing}," thought {hero}.
    """,
    ending="""
    {hero} ran after {friend} with the {look} {box} and said, "I am sorry. Please have some {food}."
    "I was not kind," {hero} told {friend}. "Let us share the {food} in my {look} {box}."
    {hero} took the {look} {box} to {friend} and said {=adverb}, "You can have half of the {food}."
    So {hero} brought {friend} the {look} {box} and asked {friend.him} {=adverb} to eat with {hero.him}.

    They sat under {a =tree} tree, ate the {food}, and played with the {colour} {thing}.
    {friend} smiled, and they ate the {food} together while {a =animal} watched.
    {friend} was not angry, and soon they played {=game} with the {colour} {thing}.
    Soon the {look} {box} was empty, and they got out the {colour} {thing}.

    {hero} learned that food tastes better when it is shared.
    If you share, you will have a friend.
    What we give away comes back to us as joy.
    A full {box} is nothing without a friend.
    """,
)

SURPRISE = plot(
    openers="""
    {friend} walked past {hero} without a word.
    {friend} did not want to play with {hero}.
    {hero} waved to {friend}, but {friend} did not wave back.
    """,
    problem="""
    "Maybe {friend} is angry because I lost the {look=look} {thing=thing}," thought {hero}.
    {hero} had broken {friend}'s {look=look} {thing=thing} and thought that {friend} was angry.
    "Is {friend} angry because I did not share my {look=look} {thing=thing}?" asked {hero}.
    {hero} felt {=sad}. Was it because of the {look=look} {thing=thing} that {hero.he} broke?

    {hero.His} {family} said {=adverb}, "Go and ask {friend.him}."
    "You will not know until you ask," said {hero.his} {family}.
    But {hero.his} {family} told {hero.him} {=adverb}, "Friends should talk to each other."
    All day, {hero.he} was {=sad}, until {hero.his} {family} sent {hero.him} to {friend}.

    So {hero} went to the {place} and found {friend} with {a box=box}.
    At the {place}, {friend} was hiding {a box=box} {=spot}.
    {hero} ran {=adverb} to the {place}, and there was {friend} with {a box=box}.
    Near {a =tree} tree by the {place}, {friend} sat with {a box=box}.

    "Are you angry about the {look} {thing}?" asked {hero}.
    {hero} said {=adverb}, "I am sorry about the {look} {thing}."
    "Please do not be angry about the {look} {thing}," said {hero} {=adverb}.
    {hero.He} offered {friend.him} some {=food} and asked about the {look} {thing}.
    """,
    ending="""
    "Angry? No!" said {friend}, and in the {box} was {a colour=colour} {clothes=clothes} for {hero}.
    {friend} laughed and took {a colour=colour} {clothes=clothes} out of the {box}. "A surprise for you!"
    But {friend} smiled {=adverb} and said, "I made you {a colour=colour} {clothes=clothes}."
    "I was only keeping a secret," said {friend}. In the {box} lay {a colour=colour} {clothes=clothes}.

    {hero} put on the {colour} {clothes} and danced {=adverb}.
    "What a beautiful {colour} {clothes}!" cried {hero}.
    {hero} wore the {colour} {clothes} all the way home.
    The {colour} {clothes} was just right, and they played {=game} together.

    {hero} learned that it is better to ask than to guess.
    We should not think badly of a friend before we ask.
    A kind question can chase away a big worry.
    Friends who talk to each other stay friends.
    """,
)

PLOTS = (GIFT, SHARING, SURPRISE)
