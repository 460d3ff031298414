"""Questions with answers to choose from, and what is counted over them.

    acc        the answer has the highest log-probability
    acc_norm   … the highest log-probability divided by its length in characters, as lm-evaluation-harness does it
    acc_token  … the highest mean log-probability per token, as nanoGPT and its kin do it
    chance     what guessing gives

Each with the standard error of the mean, sqrt(variance / n) with the sample variance over n - 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from smalllm.evaluation.likelihood import Likelihood
from smalllm.evaluation.requests import Encoder, Request

Item = TypeVar("Item")
Measures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A context and how it could go on.

    Attributes:
        context: the text before; may be empty.
        choices: the answers, without the space that goes before each.
        answer: which of them is right.
        where: file and line, for messages.
        group: the set it belongs to, in tasks of several.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    where: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[Item]):
    """A task, as plain functions.

    Attributes:
        name: on the command line.
        title: what it asks, for people.
        address: where its questions are: a data set on the Hugging Face Hub, or a URL with `#sha256=`.
        files: patterns of the file names in a folder laid out as on the Hub; the first that matches anything counts.
        read: from a record, and where it stands, to an item; raises DataError.
        encode: from an item to the requests to score.
        measure: from items, the likelihoods of each one's requests, and the size of the vocabulary, to the measures.
    """

    name: str
    title: str
    address: str
    files: tuple[str, ...]
    read: Callable[[dict[str, Any], str], Item]
    encode: Callable[[Item, Encoder], list[Request]]
    measure: Callable[[Sequence[Item], Sequence[Sequence[Likelihood]], int], Measures]


def encode_question(question: Question, encoder: Encoder) -> list[Request]:
    """A request for each choice."""
    return encoder.pairs(question.context, [f" {choice}" for choice in question.choices], where=question.where)


def is_right(question: Question, found: Sequence[Likelihood]) -> bool:
    """Whether the answer is the likeliest choice; of equal ones the first counts."""
    return int(np.argmax([one.log_prob for one in found])) == question.answer


def is_right_by_length(question: Question, found: Sequence[Likelihood]) -> bool:
    """The same per character of the choice; one without characters is never chosen."""
    lengths = [len(choice) for choice in question.choices]
    scores = [one.log_prob / n if n else -math.inf for one, n in zip(found, lengths, strict=True)]
    return int(np.argmax(scores)) == question.answer


def is_right_by_token(question: Question, found: Sequence[Likelihood]) -> bool:
    """The same per token."""
    return int(np.argmax([one.log_prob / one.n_tokens for one in found])) == question.answer


def measure_accuracy(
    questions: Sequence[Question], found: Sequence[Sequence[Likelihood]], vocab_size: int = 0
) -> Measures:
    """Both accuracies with their standard errors, and chance."""
    return {
        "n": len(questions),
        **share("acc", list(map(is_right, questions, found))),
        **share("acc_norm", list(map(is_right_by_length, questions, found))),
        "chance": float(np.mean([1 / len(question.choices) for question in questions])),
    }


def share(name: str, values: Sequence[float | int]) -> Measures:
    """The mean of some values, and its standard error (None for a single one)."""
    return {name: float(np.mean(values)), f"{name}_stderr": standard_error(values)}


def standard_error(values: Sequence[float | int]) -> float | None:
    """Of the mean of independent values."""
    if len(values) < 2:
        return None
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1) / math.sqrt(len(values)))
