"""HellaSwag: which of four endings goes on with what was said? Source: Zellers et al. 2019; prompts and text clean-up
as in lm-evaluation-harness, `hellaswag`. With `hellaswag_nanogpt` the raw context and the mean log-probability per
token decide (`acc_token`), as in build-nanogpt and llm.c; the two do not compare.
"""

import re
from collections.abc import Sequence

from smalllm.errors import DataError
from smalllm.evaluation.likelihood import Likelihood
from smalllm.evaluation.questions import (
    Measures,
    Question,
    Task,
    encode_question,
    is_right_by_token,
    measure_accuracy,
    share,
)
from smalllm.evaluation.records import Record, answer_of, text_of

_ADDRESS = "Rowan/hellaswag"  # the authors' own repository on GitHub is closed since September 2026
_FILES = ("data/validation-*.parquet", "*validation*.parquet", "*val*.jsonl")


def read(record: Record, where: str) -> Question:
    """A record of the original schema: `activity_label`, `ctx_a`, `ctx_b`, `endings`, `label`."""
    label, ctx_a, ctx_b = (text_of(record, key, where) for key in ("activity_label", "ctx_a", "ctx_b"))
    context = _clean(f"{label}: {ctx_a} {ctx_b.capitalize()}")
    return Question(context, tuple(map(_clean, _endings(record, where))), _answer(record, where), where)


def read_raw(record: Record, where: str) -> Question:
    """The same record as nanoGPT's kin read it: `ctx` and `endings` as they are."""
    return Question(text_of(record, "ctx", where), tuple(_endings(record, where)), _answer(record, where), where)


def measure(questions: Sequence[Question], found: Sequence[Sequence[Likelihood]], vocab_size: int) -> Measures:
    """The three accuracies."""
    measures = measure_accuracy(questions, found)
    return {**measures, **share("acc_token", list(map(is_right_by_token, questions, found)))}


def _clean(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")  # brackets are left over from WikiHow's headings
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _endings(record: Record, where: str) -> list[str]:
    endings = record.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(ending, str) for ending in endings):
        raise DataError(f"{where}: expected a list of texts under 'endings', found {endings!r:.60}; correct the record")
    return endings


def _answer(record: Record, where: str) -> int:
    return answer_of(record.get("label"), [str(i) for i in range(len(record["endings"]))], where)


TASK = Task(
    name="hellaswag",
    title="HellaSwag, the ending of a story",
    address=_ADDRESS,
    files=_FILES,
    read=read,
    encode=encode_question,
    measure=measure,
)
RAW_TASK = Task(
    name="hellaswag_nanogpt",
    title="HellaSwag as nanoGPT's kin ask it",
    address=_ADDRESS,
    files=_FILES,
    read=read_raw,
    encode=encode_question,
    measure=measure,
)
