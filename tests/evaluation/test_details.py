"""The parts of a loss add up to the loss, by position, by frequency, and the standard error is that of windows."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from smalllm.config import ModelConfig
from smalllm.evaluation.batches import padded_batches, sliding_windows
from smalllm.evaluation.details import Details, rank_targets, ratio_error
from smalllm.evaluation.loss import score_model
from smalllm.model.gpt import GPT

LENGTHS = np.array([1, 2, 0, 3] * 16)[:61]


def scored(model: GPT, ids: np.ndarray, *, stride: int, context_length: int, eos_id: int | None = None):  # type: ignore[no-untyped-def]
    details = Details(context_length=context_length, vocab_size=61)
    windows = sliding_windows(lambda a, b: ids[a:b], len(ids), context_length=context_length, stride=stride)
    score = score_model(
        model, padded_batches(windows, fill_id=0), token_byte_lengths=LENGTHS, device="cpu", precision="fp32",
        eos_id=eos_id, details=details,
    )  # fmt: skip
    return score, details


@torch.no_grad()
def nats_by_hand(model: GPT, ids: np.ndarray, *, stride: int, context_length: int) -> list[float]:
    """-ln p of each target, one pass a window; the context of the one at i begins where its window does."""
    nats, done = [], 0
    while done < len(ids) - 1:
        stop = min(done + (stride if done else context_length), len(ids) - 1)
        start = max(0, stop - context_length)
        log_probs = model(torch.tensor(ids[None, start:stop])).log_softmax(-1)[0]
        nats += [-float(log_probs[i - start, ids[i + 1]]) for i in range(done, stop)]
        done = stop
    return nats


@pytest.mark.parametrize("stride", [1, 5, 16])
def test_a_sliding_window_by_hand(stride: int, tiny_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    model = make_model(tiny_config)
    ids = np.random.default_rng(0).integers(0, 61, 50)
    score, details = scored(model, ids, stride=stride, context_length=16)
    nats = nats_by_hand(model, ids, stride=stride, context_length=16)
    assert score.tokens == 49 and score.nats == pytest.approx(sum(nats), rel=1e-5)
    assert score.text_bytes == LENGTHS[ids[1:]].sum()
    assert score.text_nats == pytest.approx(sum(n for n, i in zip(nats, ids[1:], strict=True) if LENGTHS[i]), rel=1e-5)
    for bins in (details.by_position(), details.by_frequency(np.bincount(ids, minlength=61))):
        assert sum(b["tokens"] for b in bins) == 49
        assert sum(b["tokens"] * b["loss"] for b in bins) == pytest.approx(sum(nats), rel=1e-5)


def test_bins(tiny_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    ids = np.arange(50) % 61
    _, details = scored(make_model(tiny_config), ids, stride=16, context_length=16)
    spans = [(b["from"], b["to"], b["tokens"]) for b in details.by_position()]
    # windows of 16, 16, 16 and, moved back to be full, 1
    assert spans == [(1, 1, 3), (2, 2, 3), (3, 4, 6), (5, 8, 12), (9, 16, 25)]
    counts = np.zeros(61, dtype=np.int64)
    counts[[1, 2, 3, 60]] = [1, 9, 10, 12345]
    spans = [(b["from"], b["to"], b["tokens"]) for b in details.by_frequency(counts)]
    assert spans == [(0, 0, 46), (1, 9, 2), (10, 99, 1)]  # the frequent one does not occur


def test_more_context_is_a_lower_loss_for_a_model_that_copies() -> None:
    """A model that knows the token 4 back: nothing helps with less context, everything with more."""

    class Copies(torch.nn.Module):
        def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*token_ids.shape, 61)
            for t in range(3, token_ids.shape[1]):
                logits[torch.arange(len(token_ids)), t, token_ids[:, t - 3]] = 20.0
            return logits

    ids = np.tile(np.random.default_rng(1).permutation(4), 20)
    _, details = scored(Copies(), ids, stride=16, context_length=16)  # type: ignore[arg-type]
    losses = {b["from"]: b["loss"] for b in details.by_position()}
    assert losses[1] == losses[2] == pytest.approx(math.log(61), rel=1e-6)
    assert losses[5] < 1e-5 < losses[3]
    sliding, _ = scored(Copies(), ids, stride=4, context_length=16)  # type: ignore[arg-type]
    apart, _ = scored(Copies(), ids, stride=16, context_length=16)  # type: ignore[arg-type]
    assert sliding.nats < apart.nats / 4


def test_ranks(tiny_config: ModelConfig) -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    assert rank_targets(logits, torch.tensor([[2, 3]])).tolist() == [[1, 0]]  # equal ones are not likelier
    details = Details(context_length=8, vocab_size=9)
    nats, targets = torch.ones(1, 3), torch.tensor([[1, 2, -100]])
    ranks = torch.tensor([[4, 5, 0]])
    details.add(nats, targets, ranks, positions=torch.arange(3)[None], n_bytes=torch.tensor([[1, 0, 1]]))
    measures = details.measures()
    assert measures["top5_accuracy"] == 0.5 and measures["loss_stderr"] is None


def test_standard_error_of_a_ratio() -> None:
    assert ratio_error([1.0, 3.0], [1, 1]) == pytest.approx(1.0)  # that of a mean: sqrt(2) / sqrt(2)
    draws = np.random.default_rng(2)
    sizes = draws.integers(5, 15, size=(2000, 40))
    sums = sizes * 2 + draws.normal(0, np.sqrt(sizes))
    spread = (sums.sum(1) / sizes.sum(1)).std()
    errors = [ratio_error(a, b) for a, b in zip(sums, sizes, strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.06)
    assert ratio_error([1.0], [1]) is None and ratio_error([0.0, 0.0], [0, 0]) is None


def test_windows_that_repeat_count_as_what_they_are() -> None:
    """Tokens of a window vary together here: an error over tokens would be four times too small."""
    details = Details(context_length=16, vocab_size=4)
    draws = np.random.default_rng(3).normal(5, 1, 200)
    nats = torch.tensor(np.repeat(draws[:, None], 16, axis=1))
    targets = torch.zeros(200, 16, dtype=torch.int64)
    details.add(nats, targets, targets, torch.arange(16).expand(200, 16), torch.ones_like(targets))
    assert details.measures()["loss_stderr"] == pytest.approx(draws.std(ddof=1) / math.sqrt(200), rel=0.01)


def test_with_a_document_mask_positions_count_from_each_document(
    tiny_config: ModelConfig, make_model: Callable[..., GPT]
) -> None:
    model = make_model(replace(tiny_config, context_length=16))
    ids = np.array([60, 1, 2, 3, 60, 4, 5, 6, 60, 7, 8, 9, 60, 1, 2, 3, 60])
    _, details = scored(model, ids, stride=16, context_length=16, eos_id=60)
    assert [(b["from"], b["to"], b["tokens"]) for b in details.by_position()] == [(1, 1, 4), (2, 2, 4), (3, 4, 8)]
