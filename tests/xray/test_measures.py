"""Each measure of a traced pass against what it must be: by hand, by another way, or exactly by a sum."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.data.padded import IGNORED
from smalllm.model.gpt import GPT
from smalllm.xray.attention import distance_bins, looks
from smalllm.xray.heads import pattern_scores, repeated_tokens, score_patterns
from smalllm.xray.lens import logit_lens
from smalllm.xray.positions import PositionLoss, position_loss
from smalllm.xray.residual import contributions
from smalllm.xray.surprise import entropy_bits, surprise
from smalllm.xray.trace import LayerTrace, Trace, trace

MakeModel = Callable[..., GPT]


# --- surprise and the lens


def test_surprise_is_the_loss_in_bits(any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor) -> None:
    logits = trace(make_model(any_config), token_ids).logits[0]
    found = surprise(logits, token_ids[0])
    loss = F.cross_entropy(logits[:-1], token_ids[0, 1:])
    torch.testing.assert_close(found.bits.mean() * math.log(2), loss)
    wrong = surprise(logits.roll(1, 0), token_ids[0])  # partner: the logits of the token itself
    assert not torch.allclose(wrong.bits.mean() * math.log(2), loss)
    assert torch.equal(found.alternative_ids[:, 0], logits[:-1].argmax(-1))
    assert (found.alternative_probabilities.diff(dim=-1) <= 0).all()


def test_entropy_of_what_is_known() -> None:
    logits = torch.tensor([[0.0] * 8, [100.0] + [0.0] * 7, [0.0, 0.0] + [-math.inf] * 6])
    torch.testing.assert_close(entropy_bits(logits), torch.tensor([3.0, 0.0, 1.0]))


def test_the_lens_ends_with_the_model_and_begins_with_the_embedding(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    traced = trace(model, token_ids)
    lens = logit_lens(model, traced)
    assert lens.top_ids.shape == (any_config.n_layers + 1, 16)
    assert torch.equal(lens.top_ids[-1], traced.logits[0].argmax(-1))
    torch.testing.assert_close(lens.top_probabilities[-1], traced.logits[0].softmax(-1).amax(-1))
    with torch.no_grad():
        first = model.lm_head(model.norm(traced.embedded[0]))[:, : model.vocab_size]
    torch.testing.assert_close(lens.entropy_bits[0], entropy_bits(first))
    assert not torch.equal(lens.entropy_bits[0], lens.entropy_bits[-1])


# --- what each part adds


def test_the_shares_of_all_parts_are_the_logit(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    traced = trace(model, token_ids)
    found = contributions(model, traced)
    logits = traced.logits[0, :-1]
    right = logits.gather(-1, token_ids[0, 1:, None]).squeeze(-1) - logits.mean(dim=-1)
    torch.testing.assert_close(found.effects.sum(dim=0), right, rtol=1e-4, atol=1e-4)  # sums of 61 in another order
    for part, name in enumerate(found.names):  # partner: with any part left out it is another
        without = found.effects.sum(dim=0) - found.effects[part]
        assert not torch.allclose(without, right, rtol=1e-3, atol=1e-3), name
    assert ("norm bias" in found.names) == (any_config.norm == "layernorm" and any_config.bias)
    torch.testing.assert_close(found.norms[0], traced.embedded[0].norm(dim=-1))
    torch.testing.assert_close(found.stream_norms, traced.stream[0].norm(dim=-1))


# --- where heads look


def traced_by_hand(attention: Tensor) -> Trace:
    """A pass of one layer with these weights [H T T]."""
    n = attention.shape[-1]
    nothing = torch.zeros(1, n, 4)
    layer = LayerTrace(attention[None], nothing, nothing, nothing, nothing)
    return Trace(torch.zeros(1, n, dtype=torch.int64), nothing, (layer,), torch.zeros(1, n, 5))


def all_seen(n: int) -> tuple[Tensor, Tensor]:
    return torch.ones(1, n, n, dtype=torch.bool).tril(), torch.ones(1, n, dtype=torch.bool)


def previous_token_head(n: int) -> Tensor:
    weights = torch.eye(n).roll(-1, dims=1)
    weights[0] = 0
    weights[0, 0] = 1
    return weights


def even_head(n: int) -> Tensor:
    weights = torch.ones(n, n).tril()
    return weights / weights.sum(dim=-1, keepdim=True)


def test_looks_of_heads_made_by_hand() -> None:
    n = 16
    itself, first = torch.eye(n), torch.eye(n)[:1].expand(n, n)
    heads = torch.stack([itself, previous_token_head(n), first, even_head(n)])
    found = looks([(traced_by_hand(heads), *all_seen(n))], n_positions=n)
    distances = torch.tensor([[0.0, 15 / 16, 7.5, 7.5 / 2]])
    torch.testing.assert_close(found.distance, distances)
    entropy = sum(math.log2(t + 1) for t in range(n)) / n
    torch.testing.assert_close(found.entropy_bits, torch.tensor([[0.0, 0.0, 0.0, entropy]]))
    share = sum(1 / (t + 1) for t in range(1, n)) / (n - 1)
    torch.testing.assert_close(found.first_share, torch.tensor([[0.0, 1 / 15, 1.0, share]]))
    torch.testing.assert_close(found.histogram.sum(dim=-1), torch.ones(1, 4))
    torch.testing.assert_close(found.histogram[0, 1], torch.tensor([1 / 16, 15 / 16, 0, 0, 0]))
    torch.testing.assert_close(found.histogram[0, 2], torch.tensor([1, 1, 2, 4, 8]) / 16)


def test_documents_have_a_first_token_of_their_own() -> None:
    seen = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).bool().tril()[None]
    to_start = torch.zeros(1, 8, 8)
    to_start[:, :4, 0] = to_start[:, 4:, 4] = 1
    counts = torch.ones(1, 8, dtype=torch.bool)
    assert looks([(traced_by_hand(to_start), seen, counts)], n_positions=8).first_share.item() == pytest.approx(1)
    whole = looks([(traced_by_hand(to_start), *all_seen(8))], n_positions=8)  # partner
    assert whole.first_share.item() == pytest.approx(3 / 7)


def test_queries_that_do_not_count_are_left_out() -> None:
    n = 8
    heads = torch.stack([torch.eye(n)])
    heads[0, 4:] = torch.eye(n)[0]  # padding looks at the first token
    seen, counts = all_seen(n)
    assert looks([(traced_by_hand(heads), seen, counts)], n_positions=n).distance.item() > 0
    counts[:, 4:] = False
    assert looks([(traced_by_hand(heads), seen, counts)], n_positions=n).distance.item() == 0
    with pytest.raises(ValueError, match="no query"):
        looks([(traced_by_hand(heads), seen, torch.zeros_like(counts))], n_positions=n)


@given(st.integers(1, 2000))
def test_bins_cover_every_distance_once(n: int) -> None:
    bins = distance_bins(n)
    assert bins == sorted(set(bins)) and bins[0] == 0
    assert bins[-1] <= max(0, n - 1) < max(1, 2 * bins[-1])  # the last one is needed, and no further one


# --- what heads do


def test_pattern_scores_of_heads_made_by_hand() -> None:
    n, start = 6, 1
    size = start + 2 * n
    duplicate, induction = torch.eye(size), torch.eye(size)
    for i in range(n):
        t = start + n + i
        duplicate[t] = torch.eye(size)[start + i]
        induction[t] = torch.eye(size)[start + i + 1]
    heads = torch.stack([previous_token_head(size), duplicate, induction, even_head(size)])
    scores = pattern_scores(heads, n_tokens=n, start=start)
    torch.testing.assert_close(scores[:, :3], torch.eye(3))
    chance = sum(1 / (start + n + i + 1) for i in range(n)) / n
    torch.testing.assert_close(scores[1:, 3], torch.full((2,), chance))
    shifted = pattern_scores(heads, n_tokens=n, start=0)  # partner: not the places where copies are
    assert shifted[2, 2] < 0.9 and shifted[1, 1] < 0.9


@given(st.integers(2, 20), st.integers(0, 5), st.integers(1, 4))
def test_repeated_tokens_are_different_and_come_twice(n: int, seed: int, n_texts: int) -> None:
    texts = repeated_tokens(range(3, 30), n_tokens=n, n_texts=n_texts, seed=seed, opening=[1])
    assert texts.shape == (n_texts, 1 + 2 * n)
    assert (texts[:, 0] == 1).all() and torch.equal(texts[:, 1 : 1 + n], texts[:, 1 + n :])
    for row in texts[:, 1 : 1 + n].tolist():
        assert len(set(row)) == n and set(row) <= set(range(3, 30))
    assert torch.equal(texts, repeated_tokens(range(3, 30), n_tokens=n, n_texts=n_texts, seed=seed, opening=[1]))


@pytest.mark.parametrize("opening", [[], [60]])
def test_scores_of_a_model(any_config: ModelConfig, make_model: MakeModel, opening: list[int]) -> None:
    model = make_model(any_config)
    found = score_patterns(model, range(60), opening=opening, n_texts=3)
    assert found is not None and found.n_tokens == (16 - len(opening)) // 2
    for scores in (found.previous, found.duplicate, found.induction):
        assert scores.shape == (2, 4) and (scores >= 0).all() and (scores <= 1).all()
    texts = repeated_tokens(range(60), n_tokens=found.n_tokens, n_texts=3, seed=0, opening=opening)
    with torch.no_grad():
        bits = torch.stack([surprise(model(row[None])[0], row).bits for row in texts])
    torch.testing.assert_close(found.second_bits, float(bits[:, -found.n_tokens :].mean()))
    torch.testing.assert_close(found.first_bits, float(bits[:, : -found.n_tokens].mean()))


def test_a_model_that_copies_is_seen(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    """A head whose keys are positions rotated by one is a previous-token head: set by hand, found by the score."""
    model = make_model(replace(tiny_config, position="learned"))
    attention = model.blocks[0].attention
    with torch.no_grad():
        model.token_embedding.weight.zero_()
        places = torch.eye(16, 32)
        model.position_embedding.weight.copy_(places)  # position p is dimension p
        model.blocks[0].attention_norm.weight.fill_(1)
        attention.q.weight.zero_()
        attention.k.weight.zero_()
        for p in range(8):  # a head has 8 dimensions: positions 0 to 7
            attention.q.weight[p, p + 1] = 30.0  # the query at p + 1 asks for p
            attention.k.weight[p, p] = 30.0
    before = trace(model, torch.arange(8)[None]).layers[0].attention[0]
    found = pattern_scores(before, n_tokens=4)[0]
    assert found[0] > 0.99 and found[1] < 0.6


def test_too_little_to_repeat(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    assert score_patterns(model, [3]) is None and score_patterns(model, [3, 4]) is not None
    assert score_patterns(make_model(replace(tiny_config, context_length=3)), range(9)) is None


# --- loss by position


def test_loss_by_position_is_the_loss_taken_apart(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    targets = token_ids.roll(-1, dims=1)
    targets[2, 9:] = IGNORED
    found = position_loss(model, iter([(token_ids[:1], targets[:1]), (token_ids[1:], targets[1:])]))
    with torch.no_grad():
        losses = F.cross_entropy(model(token_ids).transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(found.nats, losses.double().sum(dim=0))
    assert found.counts.tolist() == [4] * 9 + [3] * 7
    first, last, loss = found.buckets()[-1]
    assert (first, last) == (9, 16)
    assert loss == pytest.approx(float(losses[:, 8:].sum()) / int((targets[:, 8:] != IGNORED).sum()), rel=1e-5)


def test_positions_count_from_the_start_of_documents(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    token_ids = torch.tensor([[7, 1, 2, 7, 1, 2]])
    targets = token_ids.roll(-1, dims=1)
    apart = position_loss(model, [(token_ids, targets)], eos_id=7)
    assert apart.counts[:3].tolist() == [2, 2, 2] and int(apart.counts.sum()) == 6
    once = position_loss(model, [(token_ids[:, :3], targets[:, :3])])
    torch.testing.assert_close(apart.nats[:3], 2 * once.nats[:3])
    together = position_loss(model, [(token_ids, targets)])  # partner
    assert together.counts[:6].tolist() == [1] * 6


def test_buckets_double_and_leave_out_what_is_empty() -> None:
    found = PositionLoss(torch.ones(10, dtype=torch.float64), torch.tensor([1] * 8 + [0, 0]))
    assert [row[:2] for row in found.buckets()] == [(1, 1), (2, 2), (3, 4), (5, 8)]
    part = PositionLoss(torch.ones(10, dtype=torch.float64), torch.tensor([1] * 6 + [0] * 4))
    assert part.buckets()[-1] == (5, 6, 1.0)
    assert PositionLoss(torch.zeros(3), torch.zeros(3, dtype=torch.int64)).buckets() == []
