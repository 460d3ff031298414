"""The embedded corpus: small stories for children from a probabilistic grammar of known entropy.

A model can be trained on them offline in minutes, and its loss compared with the entropy of the source, which
no model can beat. Not a sample of real English: for that, use a recipe that reads real text.
"""

from smalllm.data.stories.engine import Story, StoryError, enumerate_stories
from smalllm.data.stories.grammar import CLOSING, fingerprint, is_valid, parse, stories, story

__all__ = [
    "CLOSING",
    "Story",
    "StoryError",
    "enumerate_stories",
    "fingerprint",
    "is_valid",
    "parse",
    "stories",
    "story",
]
