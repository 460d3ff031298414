"""The words of the stories, by class: what may stand in the same slot of a sentence, and how often.

A class is seen hundreds of times in a few thousand stories; which word stands in one story is drawn,
said, and then repeated. What goes with a word beyond that (a pronoun, a past tense) is one of its forms.
"""

from collections.abc import Mapping, Sequence

from smalllm.data.stories.templates import Words
from smalllm.data.stories.word_lists import BOYS, FAMILY, FIXTURES, GIRLS, INFLECTED, PLAIN, SURNAMES

_SHE = {"him": "her", "his": "her", "He": "She", "His": "Her"}
_HE = {"him": "him", "his": "his", "He": "He", "His": "His"}


def _words(text: str, *, forms: Sequence[str] = (), skew: float = 0.0) -> Words:
    """A class from comma-separated words, each with its further forms after slashes.

    Word number i (from 0) weighs 1 / (1 + i) ** skew, as in Zipf's law; 0 makes all words equal.
    """
    entries = [word.split("/") for word in " ".join(text.split()).split(", ")]
    return _class([dict(zip(("", *forms), entry, strict=True)) for entry in entries], skew=skew)


def _class(entries: Sequence[Mapping[str, str]], *, skew: float = 0.0) -> Words:
    weights = tuple(max(1, round(1000 / (1 + i) ** skew)) for i in range(len(entries)))
    return Words(tuple(entries), weights)


def _children() -> list[dict[str, str]]:
    pairs = zip(GIRLS.split(), BOYS.split(), strict=True)
    named = [child for girl, boy in pairs for child in ((girl, "girl", _SHE), (boy, "boy", _HE))]
    return [{"": name, "intro": f"{kind} named {name}", **pronouns} for name, kind, pronouns in named]


def _elders() -> list[dict[str, str]]:
    return [{"": f"{title} {name}"} for name in SURNAMES.split() for title in ("Mrs.", "Mr.")]


def lexicon() -> dict[str, Words]:
    """Every class of words by name."""
    spots = [{"": f"{where} the {thing}"} for thing in FIXTURES.split() for where in ("under", "behind", "beside")]
    people = {
        "child": _class(_children(), skew=0.3),
        "elder": _class(_elders()),
        "family": _words(FAMILY, skew=0.5),
        "spot": _class(spots),
    }
    plain = {name: _words(text, skew=0.3) for name, text in PLAIN.items()}
    inflected = {name: _words(text, forms=forms.split()) for name, (forms, text) in INFLECTED.items()}
    return people | plain | inflected
