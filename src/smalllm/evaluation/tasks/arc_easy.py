"""ARC-Easy: school questions with three to five answers. Source: Clark et al. 2018; prompts as in
lm-evaluation-harness, `arc_easy`.
"""

from typing import Any, TypeGuard

from smalllm.errors import DataError
from smalllm.evaluation.questions import Question, Task, encode_question, measure_accuracy
from smalllm.evaluation.records import Record, answer_of, text_of


def read(record: Record, where: str) -> Question:
    """A record with `question`, `choices` of `text` and `label`, and `answerKey`; or AI2's own, nested one."""
    question: Any = record.get("question")
    choices: Any = record.get("choices")
    if isinstance(question, dict):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list):
        choices = {
            key: [choice.get(key) for choice in choices if isinstance(choice, dict)] for key in ("text", "label")
        }
    stem = text_of({"question": question}, "question", where)
    texts, labels = (choices.get(key) if isinstance(choices, dict) else None for key in ("text", "label"))
    if not _are_texts(texts) or not _are_texts(labels) or len(texts) != len(labels):
        raise DataError(f"{where}: expected 'choices' with 'text' and 'label', found {choices!r:.60}; correct it")
    answer = answer_of(record.get("answerKey"), labels, where)
    return Question(f"Question: {stem}\nAnswer:", tuple(texts), answer, where)


def _are_texts(values: object) -> TypeGuard[list[str]]:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


TASK = Task(
    name="arc_easy",
    title="ARC-Easy, school questions",
    address="allenai/ai2_arc",
    files=("ARC-Easy/test-*.parquet", "*ARC-Easy-Test.jsonl"),
    read=read,
    encode=encode_question,
    measure=measure_accuracy,
)
