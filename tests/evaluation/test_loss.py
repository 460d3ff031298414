"""Losses by hand, bytes counted exactly, padding without influence, and a perfect model at the grammar's floor."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from smalllm.config import ModelConfig
from smalllm.data.stories.engine import Program, Story, Teller, enumerate_stories
from smalllm.data.stories.templates import Words, beats
from smalllm.errors import DataError
from smalllm.evaluation.batches import Batch, document_batches, window_batches
from smalllm.evaluation.loss import Score, bits_per_byte, score_logits, score_model
from smalllm.evaluation.unigram import count_tokens, score_unigram
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes

BYTES = build_bytes()
EOS = BYTES.eos_id


def score(model: nn.Module, batches: Sequence[Batch]) -> Score:
    return score_model(model, batches, token_byte_lengths=BYTES.token_byte_lengths, device="cpu", precision="fp32")


def document(text: str) -> NDArray[np.uint16]:
    return np.array([*BYTES.encode(text), EOS], dtype=np.uint16)


# --- by hand


def test_measures_by_hand() -> None:
    # Four ids: "a" (1 byte), "bc" (2 bytes), "é" (2 bytes), end of document (none). Probabilities given at each place.
    probabilities = torch.tensor([[[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]]])
    targets = torch.tensor([[0, 3, 1]])
    lengths = torch.tensor([1, 2, 2, 0])
    found = score_logits(probabilities.double().log().float(), targets, token_byte_lengths=lengths)
    measures = found.measures()
    nats = -math.log(0.5) - math.log(0.4) - math.log(0.25)
    assert (found.tokens, found.text_bytes, found.correct) == (3, 3, 2)  # the end has no bytes
    assert measures["loss"] == pytest.approx(nats / 3, rel=1e-6)
    assert measures["perplexity"] == pytest.approx(math.exp(nats / 3), rel=1e-6)
    assert measures["bits_per_token"] == pytest.approx(nats / 3 / math.log(2), rel=1e-6)
    assert measures["accuracy"] == 2 / 3
    # the end of the document is in neither sum: 1 bit for "a" and 2 bits for "bc", on three bytes
    assert measures["bits_per_byte"] == pytest.approx((1 + 2) / 3, rel=1e-6)
    assert abs(measures["bits_per_byte"] - nats / math.log(2) / 3) > 0.1  # with the end's nats it would be more


def test_a_byte_model_by_hand() -> None:
    """A model that gives every byte 1/256 and the end of the document nothing: exactly 8 bits per byte."""

    class Flat(nn.Module):
        def forward(self, token_ids: Tensor) -> Tensor:
            logits = torch.zeros(*token_ids.shape, 257)
            logits[..., EOS] = -math.inf
            return logits

    text = "Été, 5 €"  # é is two bytes, € is three
    ids = torch.tensor([BYTES.encode(text)])
    found = score(Flat(), [(ids, ids)])
    assert found.text_bytes == len(text.encode()) == 12
    nats_of_a_byte = float(torch.tensor(256.0).log())  # FP32, as the model's
    assert abs(found.text_nats - 12 * nats_of_a_byte) < 1e-12
    assert abs(found.measures()["bits_per_byte"] - nats_of_a_byte / math.log(2)) < 1e-12
    assert found.measures()["bits_per_byte"] == pytest.approx(8, rel=1e-6)
    assert found.measures()["bits_per_byte"] != pytest.approx(12 * 8 / len(text), rel=0.1)  # bytes, not characters


def test_bits_per_byte_of_one_byte_at_one_half() -> None:
    assert bits_per_byte(math.log(2), 1) == 1.0
    for n_bytes in (0, -1):
        with pytest.raises(ValueError, match="must be positive"):
            bits_per_byte(1.0, n_bytes)


def test_nothing_scored_is_an_error_and_a_huge_loss_is_not() -> None:
    with pytest.raises(DataError, match="no text was scored"):
        Score().measures()
    with pytest.raises(DataError, match="only special tokens"):
        Score(nats=1.0, tokens=1).measures()
    assert math.isfinite(Score(nats=1e6, tokens=1, text_nats=1e6, text_bytes=1).measures()["perplexity"])


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 5), max_size=5))
def test_scores_of_parts_add_up(parts: list[tuple[int, int, int, int, int]]) -> None:
    total = Score()
    for nats, tokens, text_nats, text_bytes, correct in parts:
        total += Score(float(nats), tokens, float(text_nats), text_bytes, correct)
    sums = [sum(column) for column in zip((0,) * 5, *parts, strict=True)]
    assert [total.nats, total.tokens, total.text_nats, total.text_bytes, total.correct] == sums


# --- what is scored


def test_windows_lose_what_is_padding_in_every_row() -> None:
    whole = np.arange(8).reshape(2, 4)
    padded = np.array([[5, -100, -100, -100], [6, 7, -100, -100]])
    first, second = window_batches([(whole, whole + 1), (whole, padded)])
    assert first[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and first[1].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert second[0].tolist() == [[0, 1], [4, 5]] and second[1].tolist() == [[5, -100], [6, 7]]


def test_a_document_is_scored_from_its_start_to_its_end() -> None:
    ((inputs, targets),) = document_batches([document("b"), document("abc")], eos_id=EOS)
    assert inputs.tolist() == [[EOS, 97, 98, 99], [EOS, 98, EOS, EOS]]
    assert targets.tolist() == [[97, 98, 99, EOS], [98, EOS, -100, -100]]


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_every_document_is_scored_once_in_batches_of_bounded_size(lengths: list[int]) -> None:
    documents = [np.full(length, number) for number, length in enumerate(lengths)]
    scored: Counter[int] = Counter()
    for inputs, targets in document_batches(documents, eos_id=EOS):
        assert inputs.shape == targets.shape
        assert inputs.numel() <= 8_192
        scored.update(targets[targets != -100].tolist())
    assert scored == Counter(dict(enumerate(lengths)))


def test_padding_has_no_influence(any_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    model = make_model(replace(any_config, context_length=32), vocab_size=257)
    documents = [document(text) for text in ("a", "Hello, world!", "Été", "", "longer than the others")]
    together = score(model, list(document_batches(documents, eos_id=EOS)))
    alone = [score(model, list(document_batches([d], eos_id=EOS))) for d in documents]
    total = sum(alone, Score())
    assert (together.tokens, together.text_bytes, together.correct) == (total.tokens, total.text_bytes, total.correct)
    assert together.tokens == sum(map(len, documents))
    assert together.nats == pytest.approx(total.nats, rel=1e-6)
    assert together.text_nats == pytest.approx(total.text_nats, rel=1e-6)
    padded = [
        (inputs, targets.where(targets != -100, EOS)) for inputs, targets in document_batches(documents, eos_id=EOS)
    ]
    assert score(model, padded).tokens > total.tokens  # padding that is scored would be seen


def test_the_model_is_put_into_evaluation_mode(tiny_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    model = make_model(replace(tiny_config, dropout=0.5), vocab_size=257).train()
    batches = list(document_batches([document("Hello")], eos_id=EOS))
    assert score(model, batches) == score(model, batches)
    assert not model.training


# --- the unigram model


def test_unigram_by_hand() -> None:
    train = count_tokens([np.array([[0, 0, 0], [1, 1, 2]], dtype=np.uint16), np.array([0])], vocab_size=4)
    assert train.tolist() == [4, 2, 1, 0]
    found = score_unigram(train, np.array([1, 0, 2, 3]), token_byte_lengths=np.array([1, 2, 3, 0]))
    # add one to each of 4 counts of 7 tokens: 5/11, 3/11, 2/11, 1/11; the last id is special
    assert found.text_nats == pytest.approx(-math.log(5 / 11) - 2 * math.log(2 / 11), rel=1e-12)
    assert found.nats == pytest.approx(found.text_nats - 3 * math.log(1 / 11), rel=1e-12)
    assert (found.tokens, found.text_bytes, found.correct) == (6, 1 * 1 + 2 * 3, 1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_unigram_probabilities_sum_to_one(ids: list[int]) -> None:
    train = count_tokens([np.array(ids)], vocab_size=10)
    ones = np.eye(10, dtype=np.int64)
    nats = [score_unigram(train, one, token_byte_lengths=np.ones(10, dtype=np.int64)).nats for one in ones]
    assert math.fsum(math.exp(-x) for x in nats) == pytest.approx(1, rel=1e-12)


# --- the grammar's floor

NAMES = Words(({"": "Ann", "he": "she"}, {"": "Bob", "he": "he"}), weights=(3, 1))
PETS = Words(({"": "cat"}, {"": "owl"}), weights=(1, 1))
MEETING, OWNING = beats("""
Long ago, {hero=name} met {friend=name!hero}.
Once, {hero=name} had {a pet=pet}.

And {hero.he} was glad.
At last {hero} saw {a toy=pet}.
""")


def tell(teller: Teller) -> None:
    teller.tell(MEETING)
    teller.say(" ")
    teller.tell(OWNING)


class TrueDistribution(nn.Module):
    """The exact probability of each next byte, from all stories; raised to `power` it is slightly wrong."""

    def __init__(self, stories: Sequence[Story], *, power: float = 1.0) -> None:
        super().__init__()
        self.power = power
        self.mass: dict[bytes, NDArray[np.float64]] = {}
        for story in stories:
            ids = document(story.text).tolist()
            for end, token_id in enumerate(ids):
                prefix = bytes(ids[:end])
                self.mass.setdefault(prefix, np.zeros(257))[token_id] += math.exp(story.log_prob)

    def forward(self, token_ids: Tensor) -> Tensor:
        logits = torch.zeros(*token_ids.shape, 257)
        for row, ids in enumerate(token_ids.tolist()):
            assert ids[0] == EOS
            for t in range(len(ids)):
                if EOS in ids[1 : t + 1]:
                    break  # padding
                mass = torch.from_numpy(self.mass[bytes(ids[1 : t + 1])])
                logits[row, t] = (self.power * (mass / mass.sum()).log()).float()
        return logits


def test_the_true_distribution_scores_exactly_the_floor_and_no_other_does() -> None:
    stories = list(enumerate_stories(Program(tell, {"name": NAMES, "pet": PETS})))
    # a corpus in which every story is as frequent as it is probable
    corpus = [story for story in stories for _ in range(round(64 * math.exp(story.log_prob)))]
    assert len(corpus) == 64 and len({round(story.log_prob, 9) for story in stories}) > 2
    batches = list(document_batches([document(story.text) for story in corpus], eos_id=EOS))
    floor = -math.fsum(story.log_prob for story in corpus)
    found = score(TrueDistribution(stories), batches)
    assert found.text_nats == pytest.approx(floor, rel=1e-6)
    assert found.text_bytes == sum(len(story.text.encode()) for story in corpus)
    assert found.nats == pytest.approx(floor, rel=1e-6)  # the end of a story is certain
    for power in (0.8, 1.25):
        assert score(TrueDistribution(stories, power=power), batches).text_nats > floor * (1 + 1e-4)
