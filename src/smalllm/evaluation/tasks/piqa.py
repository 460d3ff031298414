"""PIQA: which of two ways to do something works? Source: Bisk et al. 2020; prompts as in lm-evaluation-harness,
`piqa`.
"""

from smalllm.evaluation.questions import Question, Task, encode_question, measure_accuracy
from smalllm.evaluation.records import Record, answer_of, text_of


def read(record: Record, where: str) -> Question:
    """A record with `goal`, `sol1`, `sol2` and `label` (0 or 1)."""
    choices = (text_of(record, "sol1", where), text_of(record, "sol2", where))
    answer = answer_of(record.get("label"), ("0", "1"), where)
    return Question(f"Question: {text_of(record, 'goal', where)}\nAnswer:", choices, answer, where)


TASK = Task(
    name="piqa",
    title="PIQA, everyday physics",
    address="baber/piqa",
    files=("piqa_validation.parquet", "*validation*.parquet", "*valid*.jsonl"),
    read=read,
    encode=encode_question,
    measure=measure_accuracy,
)
