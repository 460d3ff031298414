"""The lowest loss that windows allow, and what is said of a run that trains on the same ones again and again."""

import math
from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data.padded import IGNORED
from smalllm.training.overfit import Watch, lowest_loss

rows_of_tokens = st.integers(1, 6).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, 2), min_size=length + 1, max_size=length + 1), min_size=1, max_size=8
    )
)


def by_counting(rows: list[list[int]], eos_id: int | None) -> float:
    """The same by grouping the positions by the whole text before each."""
    follows: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for row in rows:
        for t in range(len(row) - 1):
            seen = row[: t + 1]
            if eos_id in seen:
                seen = seen[len(seen) - 1 - seen[::-1].index(eos_id) :]
            follows[tuple(seen)][row[t + 1]] += 1
    nats = sum(-n * math.log(n / c.total()) for c in follows.values() for n in c.values())
    return nats / sum(c.total() for c in follows.values())


@given(rows_of_tokens, st.sampled_from([None, 0]))
def test_it_is_the_entropy_of_what_follows_each_beginning(rows: list[list[int]], eos_id: int | None) -> None:
    tokens = torch.tensor(rows)
    halves = [(part[:, :-1], part[:, 1:]) for part in tokens.split(3)]  # micro-batches change nothing
    assert lowest_loss(halves, eos_id=eos_id) == pytest.approx(by_counting(rows, eos_id), abs=1e-12)


def test_known_cases() -> None:
    def of(*rows: list[int], **options: Any) -> float:
        tokens = torch.tensor(rows)
        return lowest_loss([(tokens[:, :-1], tokens[:, 1:])], **options)

    assert of([1, 2, 3, 4]) == 0.0
    assert of([1, 2, 3], [1, 2, 3]) == 0.0
    assert of([1, 2], [1, 3]) == pytest.approx(math.log(2))
    assert of([5, 0, 1, 7], [6, 0, 1, 8]) == 0.0  # what came before the document tells them apart
    assert of([5, 0, 1, 7], [6, 0, 1, 8], eos_id=0) == pytest.approx(2 * math.log(2) / 6)
    assert of([1, IGNORED], [2, IGNORED]) == 0.0
    assert of([1, 2, IGNORED], [1, 3, IGNORED]) == pytest.approx(math.log(2))


def watched(losses: dict[int, float], **options: Any) -> list[str]:
    said: list[str] = []
    options = {"lowest": 0.2, "max_steps": 1_000, "warmup_steps": 0, "dropout": 0.0, **options}
    watch = Watch(say=said.append, **options)
    for step, loss in losses.items():
        watch.row({"split": "val", "step": step, "loss": 9.9})
        watch.row({"split": "train", "step": step, "loss": loss})
    return said


def test_the_end_says_whether_it_is_near() -> None:
    (said,) = watched({1: 5.0, 500: 1.0, 1_000: 0.25})
    assert "from 5.000 to 0.250" in said and "they allow 0.200: near it" in said
    (said,) = watched({1: 5.0, 500: 1.0, 1_000: 0.35}, dropout=0.1)
    assert "not near it" in said and "--model.dropout 0" in said
    assert watched({1: 5.0, 500: 1.0}) == []  # stopped by a signal


def test_a_loss_that_does_not_fall_is_said_once() -> None:
    said = watched({1: 5.0, 50: 5.0, 150: 4.9, 200: 4.9})
    assert len(said) == 1 and "WARNING" in said[0] and "after 150 updates" in said[0]
    assert watched({1: 5.0, 50: 5.0, 150: 3.0, 200: 4.9}) == []
    assert watched({1: 5.0, 150: 4.9}, warmup_steps=200) == []
    assert len(watched({150: 4.9}, first=5.0)) == 1  # a resumed run
