"""Shared beginnings change nothing, windows score everything once, and a wrong mask or position would be seen."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalllm.config import ModelConfig
from smalllm.evaluation import likelihood
from smalllm.evaluation.likelihood import score_requests
from smalllm.evaluation.requests import Encoder, Request, rolling_windows
from smalllm.model.documents import Documents
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes

BYTES = build_bytes()
GROUPS = [
    [Request((1, 2, 3, 4), (5,)), Request((1, 2, 3, 4), (6,)), Request((1, 2, 3, 4, 5), (4, 9))],
    [Request((7, 8, 9), (8, 9, 1)), Request((7, 8, 1, 1, 1, 1), (9, 1, 1, 1, 1))],
    [Request((5,), (5,))],
    [],
    [Request((3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3), (1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2))],
]


@torch.no_grad()
def alone(model: GPT, request: Request) -> tuple[float, bool]:
    log_probs = model(torch.tensor([request.inputs])).log_softmax(-1)[0, -len(request.targets) :]
    targets = torch.tensor(request.targets)
    chosen = log_probs.gather(-1, targets[:, None])
    return float(chosen.double().sum()), bool((log_probs.argmax(-1) == targets).all())


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_shared_beginnings_change_nothing(
    at_once: int, any_config: ModelConfig, make_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "_LOGITS_AT_ONCE", at_once)
    model = make_model(any_config)
    found = score_requests(model, GROUPS, device="cpu", precision="fp32")
    assert [len(group) for group in found] == [len(group) for group in GROUPS]
    for requests, scores in zip(GROUPS, found, strict=True):
        for request, score in zip(requests, scores, strict=True):
            log_prob, is_greedy = alone(model, request)
            assert score.log_prob == pytest.approx(log_prob, rel=1e-5)
            assert (score.is_greedy, score.n_tokens) == (is_greedy, len(request.targets))


def test_a_greedy_continuation_is_seen(tiny_config: ModelConfig, make_model: Callable[..., GPT]) -> None:
    model = make_model(tiny_config)
    best = int(model(torch.tensor([[1, 2, 3]]))[0, -1].argmax())
    groups = [[Request((1, 2, 3), (best,)), Request((1, 2, 3), ((best + 1) % 61,))]]
    ((first, second),) = score_requests(model, groups, device="cpu", precision="fp32")
    assert first.is_greedy and not second.is_greedy


@pytest.mark.parametrize("broken", ["mask", "positions"])
def test_a_branch_that_saw_another_would_differ(
    broken: str, tiny_config: ModelConfig, make_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, documents = make_model(tiny_config), likelihood._documents
    right = score_requests(model, GROUPS, device="cpu", precision="fp32")

    def wrong(*arguments: object, **options: str) -> Documents:
        found = documents(*arguments, **options)  # type: ignore[arg-type]
        places = torch.arange(found.positions.shape[1]).expand_as(found.positions)
        causal = torch.ones_like(found.mask).tril()
        return replace(found, mask=causal) if broken == "mask" else replace(found, positions=places)

    monkeypatch.setattr(likelihood, "_documents", wrong)
    found = score_requests(model, GROUPS, device="cpu", precision="fp32")
    assert found[0][2].log_prob == pytest.approx(right[0][2].log_prob, rel=1e-6)  # the only branch of its row
    assert abs(found[1][1].log_prob - right[1][1].log_prob) > 1e-3


# --- windows


@given(n=st.integers(0, 60), context=st.integers(1, 12), data=st.data())
def test_every_target_is_scored_once_with_all_the_context_there_is(n: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored: list[int] = []
    for start, stop, n_scored in rolling_windows(n, context_length=context, stride=stride):
        assert 0 <= start < stop <= n and stop - start == min(context, n) and 1 <= n_scored <= stop - start
        if scored:
            assert n_scored <= stride
            assert stop - n_scored - start >= min(context - stride, len(scored))
        scored += range(stop - n_scored, stop)
    assert scored == list(range(n))


def test_rolling_windows_are_those_of_the_harness() -> None:
    """The example in the documentation of lm-evaluation-harness: ten tokens, a context of four."""
    encoder = Encoder(tokenizer=BYTES, context_length=4)
    ids = BYTES.encode("0123456789")
    assert [(list(r.inputs), list(r.targets)) for r in encoder.rolling("0123456789")] == [
        ([256, *ids[:3]], ids[:4]),
        (ids[3:7], ids[4:8]),
        (ids[5:9], ids[8:]),
    ]
    assert encoder.rolling("") == []


# --- from text to ids


def test_pairs() -> None:
    encoder = Encoder(tokenizer=BYTES, context_length=8)
    text = lambda request: (bytes(i % 256 for i in request.inputs), bytes(request.targets))  # noqa: E731
    assert [text(r) for r in encoder.pairs("ab", [" c", " de"], where="x")] == [(b"ab ", b" c"), (b"ab d", b" de")]
    assert [text(r) for r in encoder.pairs("ab \n", ["c"], where="x")] == [(b"ab \n", b" \nc")]  # space moves over
    (empty,) = encoder.pairs("", [" c"], where="x")
    assert (empty.inputs, empty.targets) == ((256, 32), (32, 99))
    (cut,) = encoder.pairs("0123456789", ["ab"], where="x")
    assert text(cut) == (b"3456789a", b"ab")  # nine in all, the last one only as a target
    with_end = replace(encoder, opening=(256,))
    assert with_end.pairs("ab", ["c"], where="x")[0].inputs == (256, 97, 98)
    assert with_end.pairs("", ["c"], where="x")[0].inputs == (256,)
