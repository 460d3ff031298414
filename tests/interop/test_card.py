"""The model card: what the run knows, with units, and nothing that it does not know."""

from collections.abc import Mapping
from typing import Any

from smalllm.checkpoint import TrainState
from smalllm.interop.card import model_card
from smalllm.interop.families import family_of
from smalllm.interop.verify import Proof
from smalllm.recipes import load_recipe

RESULT = {
    "val": {"loss": 1.5, "bits_per_byte": 2.125, "perplexity": 4.4817, "accuracy": 0.55},
    "unigram": {"loss": 3.25, "bits_per_byte": 4.5},
    "tasks": {
        "hellaswag": {"n": 200, "acc": 0.285, "acc_stderr": 0.032, "chance": 0.25, "sets": {"a": 1}},
        "lambada": {"n": 50, "perplexity": 61.5},
    },
}


def card_of(result: Mapping[str, Any]) -> str:
    config = load_recipe("shakespeare")
    state = TrainState(step=5_000, tokens=81_920_000, elapsed_s=1234.5)
    proof = Proof(by="transformers", n_positions=64, logit_difference=1e-6, n_texts=9, n_continued=20)
    return model_card(
        "mine", family_of(config.model), config, state, vocab_size=257, result=result, origin={}, proof=proof
    )


def test_data_tokens_architecture_numbers_and_limits_with_units() -> None:
    card = card_of(RESULT)
    for said in (
        "81,920,000 tokens: 5,000 steps",
        "- Data: `https://",
        "| context | 256 tokens |",
        "| layers, width, MLP | 6, 384, 1536 |",
        "| bits per byte | 2.1250 | 4.5000 |",
        "| loss [nats/token] | 1.5000 | 3.2500 |",
        "| perplexity [tokens] | 4.48 | |",
        "## Limits",
    ):
        assert said in card, said


def test_scores_of_tasks_have_errors_and_chance() -> None:
    card = card_of(RESULT)
    assert "| `hellaswag` | acc | 0.2850 ± 0.0320 | 0.2500 | 200 |" in card
    assert "| `lambada` | perplexity | 61.5000 |  | 50 |" in card and "sets" not in card


def test_what_the_run_does_not_know_is_not_there() -> None:
    assert "## Tasks" not in card_of({**RESULT, "tasks": {}}) and "## Tasks" not in card_of({**RESULT, "tasks": None})
    assert "| bits per byte | 2.1250 |  |" in card_of({"val": RESULT["val"]})
    assert "## Results" not in card_of({}) and "nan" not in card_of({})
