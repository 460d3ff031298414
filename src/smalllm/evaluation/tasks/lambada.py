"""LAMBADA: the last word of a passage, which takes the whole passage to guess. OpenAI's form of the test set.

`acc`: every token of the word was the likeliest. `perplexity` is that of the word: exp of the mean of -ln p(word),
its standard error by the delta method. Source: Paperno et al. 2016; Radford et al. 2019; prompts as in
lm-evaluation-harness, `lambada_openai`.
"""

import math
from collections.abc import Sequence

import numpy as np

from smalllm.errors import DataError
from smalllm.evaluation.likelihood import Likelihood
from smalllm.evaluation.questions import Measures, Question, Task, encode_question, share, standard_error
from smalllm.evaluation.records import Record, text_of


def read(record: Record, where: str) -> Question:
    """A record with `text`; what follows its last space is the word."""
    text = text_of(record, "text", where)
    context, _, word = text.rpartition(" ")
    if not context or not word:
        raise DataError(f"{where}: expected a passage and its last word after a space, found {text!r:.60}; correct it")
    return Question(context, (word,), 0, where)


def measure(questions: Sequence[Question], found: Sequence[Sequence[Likelihood]], vocab_size: int) -> Measures:
    """Accuracy and perplexity of the last word."""
    words = [one for (one,) in found]
    nats = [-one.log_prob for one in words]
    perplexity = math.exp(min(float(np.mean(nats)), 700.0))
    error = standard_error(nats)
    return {
        "n": len(questions),
        **share("acc", [one.is_greedy for one in words]),
        "perplexity": perplexity,
        "perplexity_stderr": None if error is None else perplexity * error,
        "chance": float(np.mean([float(vocab_size) ** -one.n_tokens for one in words])),
    }


TASK = Task(
    name="lambada",
    title="LAMBADA, the last word of a passage",
    address=(
        "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"
        "#sha256=4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
    ),
    files=("*lambada_test.jsonl", "*lambada_test_en.jsonl"),
    read=read,
    encode=encode_question,
    measure=measure,
)
