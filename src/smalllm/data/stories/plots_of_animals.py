"""Three plots about animals: one in a storm, one hungry, one far from home. Templates only."""

from smalllm.data.stories.plot import plot

STORM = plot(
    openers="""
    dark clouds came over {village}, and a storm began.
    the wind began to blow hard around the {place}.
    {hero} and {friend} heard thunder far away.
    """,
    problem="""
    Near {a tree=tree} tree they saw {a coat=coat} {animal=animal}.
    Then {hero} saw {a coat=coat} {animal=animal} under {a tree=tree} tree.
    "Look!" cried {friend}. "There is {a coat=coat} {animal=animal} under the {tree=tree} tree!"
    The two friends ran {=adverb}, and under {a tree=tree} tree they found {a coat=coat} {animal=animal}.

    The wind was so strong that the {tree} tree fell with a {=sound}.
    With a {=sound}, a branch of the {tree} tree fell down.
    The {animal} was {=sad} and could not move.
    "We must help the {animal}," said {friend} {=adverb}.

    {hero.He} put {hero.his} {colour=colour} {clothes=clothes} around the {coat} {animal}.
    {hero} took off {hero.his} {colour=colour} {clothes=clothes} and kept the {animal} warm with it.
    The {animal} hid in {hero}'s {colour=colour} {clothes=clothes}.
    In {a colour=colour} {clothes=clothes}, {hero} carried it {=adverb} through the storm.

    They ran to the house of {elder=elder}, {a job=job}.
    Then {elder=elder}, {a job=job}, saw them and opened the door {=adverb}.
    At last they came to the house of {elder=elder}, {a job=job}, and ate {=food} by the fire.
    "Come in!" called {elder=elder}, {a job=job} who lived near the {place}.
    """,
    ending="""
    The next day, the sun shone, and the {animal} ran home.
    When the sky was clear, the {animal} went back to the {place}.
    In the morning, the {animal} was not {coat} anymore, only {=happy}.
    After {=number} minutes, the storm was over, and the {animal} looked {=happy}.

    After that, the {animal} often came to {hero} and looked for the {colour} {clothes}.
    "You were very brave," said {elder}, the {job}.
    {hero} washed the {colour} {clothes} and thanked {elder} {=adverb}.
    {friend} waved {=adverb} and gave the {animal} some {=food}.

    {hero} learned that even a small friend needs help in a storm.
    After every storm comes the sun.
    Those who help others are never alone in the rain.
    To be brave is to help when you are afraid.
    """,
)

HUNGRY = plot(
    openers="""
    {hero} saw {a coat=coat} {animal=animal} {spot=spot}.
    {hero} heard a sound and found {a coat=coat} {animal=animal} {spot=spot}.
    {hero} met {a coat=coat} {animal=animal} that was sitting {spot=spot}.
    """,
    problem="""
    {hero} gave it some {food=food}, but it did not eat.
    {hero.He} got some {food=food}, but the {animal} looked {=sad} and did not eat.
    But when {hero} brought {food=food}, the {animal} turned away.
    "You must be hungry," said {hero} {=adverb}, but it did not eat any {food=food}.

    {friend} said {=adverb}, "Perhaps it does not like {food}. We can try {food2=food!food}."
    "Maybe it wants {food2=food!food} and not {food}," said {friend}.
    Then {friend} thought of {food2=food!food}.
    But {friend} knew that {a animal} likes to eat {food2=food!food}.

    Luckily, {elder=elder}, {a job=job}, gave them some {food2} in {a =look} {=box}.
    So they went to {elder=elder}, {a job=job}, and asked for some {food2}.
    At the {place}, {elder=elder}, {a job=job}, had {a =box} of {food2}.
    They had no {food2}, but {elder=elder}, {a job=job}, {=adverb} gave them some.
    """,
    ending="""
    "I will call you {pet=pet}," said {hero} while the {animal} ate the {food2}.
    When the {animal} had eaten all the {food2}, they named it {pet=pet}.
    How the {animal} loved the {food2}! {friend} said, "Its name should be {pet=pet}."
    The {animal} ate the {food2} {=adverb}, and {hero} gave it the name {pet=pet}.

    That night, {pet} slept in {a =look} {=box} near {hero}'s bed.
    {hero.His} {family} said that {pet} could stay, and {hero} was {=happy}.
    Every {time}, {pet} waited {spot}, and {hero} brought {food2}.
    From then on, {pet} the {animal} was never {coat} again.
    Now {pet} is the happiest {animal} in {village} and often visits {elder}.

    {hero} learned that we must find out what others need.
    Be kind to animals, and they will be kind to you.
    To help well, we must first look and listen.
    Some {food2} and a little love can change everything.
    """,
)

STRAY = plot(
    openers="""
    {hero} found a lost {animal=animal} {spot=spot}.
    {hero} heard a lost {animal=animal} crying {spot=spot}.
    {hero} and {friend} saw a lost {animal=animal} {spot=spot}.
    """,
    problem="""
    It wore {a colour=colour} collar with the name {pet=pet}.
    On its {colour=colour} collar was the name {pet=pet}.
    Around its neck was {a colour=colour} collar that said {pet=pet}.
    "Your collar is {colour=colour}, and your name is {pet=pet}," {hero} read {=adverb}.

    At the {place}, they met {a job=job}, who did not know {pet}.
    {friend} asked {a job=job} at the {place}, but {pet} was not from there.
    But {a job=job} near the {place} said {=adverb}, "That is not my {animal}."
    They gave {pet} some {=food} and went to {a job=job}, who could not help.

    Then they went to the {goal=place!place} and met {a job2=job!job}.
    "Go to the {goal=place!place}," said the {job}. There they met {a job2=job!job}.
    Near the {goal=place!place}, they saw {a job2=job!job}.
    After {=number} minutes, they met {a job2=job!job} at the {goal=place!place}.

    "I know this {animal}," said the {job2}. "It belongs to {elder=elder}."
    The {job2} looked at the {colour} collar and said, "{elder=elder} has lost {a animal}."
    The {job2} told them {=adverb} that {elder=elder} was looking for {pet}.
    "How {=happy} {elder=elder} will be!" cried the {job2} who knew {pet}.
    """,
    ending="""
    "{pet}, my dear {pet}!" cried {elder} {=adverb}.
    When {pet} saw {elder}, the {animal} jumped for joy.
    {hero} took {pet} to {elder}, who was {=happy}.
    The two friends ran {=adverb} to the house of {elder}.

    {elder} gave {hero} and {friend} some {=food} and {a =look} {=thing}.
    "Come and play with {pet} every {time}," said {elder}.
    To thank them, {elder} gave each of them {a =colour} {=clothes}.
    After that, {pet} never lost the way to {elder} again.

    {hero} learned that it feels good to bring someone home.
    Friends who look for the way together will find it.
    A good deed makes two hearts happy.
    There is no place like home, for people and for animals.
    """,
)

PLOTS = (STORM, HUNGRY, STRAY)
