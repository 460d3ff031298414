"""BLiMP: is the grammatical sentence likelier than the one that differs in a word or two? 67 sets of 1,000 pairs.

`acc` is the mean over the sets. A pair with equal log-probabilities is not won, and is counted in `ties`: with
lm-evaluation-harness, which takes the first of equal choices, and that is the grammatical one, a model that knows
nothing could win them all. Source: Warstadt et al. 2020; prompts as in lm-evaluation-harness, `blimp`.
"""

import math
from collections.abc import Sequence

from smalllm.evaluation.likelihood import Likelihood
from smalllm.evaluation.questions import Measures, Question, Task, encode_question, share
from smalllm.evaluation.records import Record, text_of


def read(record: Record, where: str) -> Question:
    """A record with `sentence_good`, `sentence_bad` and `UID`, the set it belongs to."""
    pair = (text_of(record, "sentence_good", where), text_of(record, "sentence_bad", where))
    return Question("", pair, 0, where, group=text_of(record, "UID", where))


def measure(questions: Sequence[Question], found: Sequence[Sequence[Likelihood]], vocab_size: int) -> Measures:
    """The mean over the sets, the accuracy in each, and how many pairs were equal."""
    won: dict[str, list[float]] = {}
    for question, (good, bad) in zip(questions, found, strict=True):
        won.setdefault(question.group, []).append(good.log_prob > bad.log_prob)
    sets = {name: share("acc", values) for name, values in sorted(won.items())}
    errors = [one["acc_stderr"] for one in sets.values()]
    is_known = all(error is not None for error in errors)
    return {
        "n": len(questions),
        "acc": sum(one["acc"] for one in sets.values()) / len(sets),
        "acc_stderr": math.sqrt(sum(error**2 for error in errors)) / len(sets) if is_known else None,
        "chance": 0.5,
        "ties": sum(good.log_prob == bad.log_prob for good, bad in found),
        "sets": {name: one["acc"] for name, one in sets.items()},
    }


TASK = Task(
    name="blimp",
    title="BLiMP, grammar",
    address="nyu-mll/blimp",
    files=("*/train-*.parquet", "*.jsonl"),
    read=read,
    encode=encode_question,
    measure=measure,
)
