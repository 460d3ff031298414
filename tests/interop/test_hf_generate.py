"""Hugging Face's generate writes the same ids, and its logits processors leave the same distributions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interop_helpers import EOS_ID, FAMILY_SHAPES, VOCAB_SIZE, make_config, make_ids, make_model

from generation_helpers import BACKENDS, GREEDY, make_decoder, run_together
from smalllm.generation.filters import adjust_rows, filter_rows
from smalllm.generation.readers import Backend
from smalllm.generation.sampling import SamplingConfig, rows_of
from smalllm.interop.hf_folder import write_hf_model

transformers = pytest.importorskip("transformers")
LENGTHS = (1, 9, 4, 12)
N_NEW = 11


@pytest.fixture(scope="module", params=FAMILY_SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model of each family, and what transformers makes of its export."""
    heads = {} if request.param == "gpt2" else {"n_kv_heads": 2}
    model = make_model(make_config(request.param, bias=request.param != "qwen3", **heads))
    folder = tmp_path_factory.mktemp(request.param)
    parameters = dict(model.named_parameters())
    write_hf_model(folder, model.config, parameters, vocab_size=VOCAB_SIZE, eos_id=EOS_ID)
    return model, load_theirs(folder)


def load_theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def continued_by_transformers(theirs: Any, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    made = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_NEW, do_sample=False, **options)
    new: list[int] = made[0, len(prompt) :].tolist()
    return new[: new.index(EOS_ID)] if EOS_ID in new else new


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("penalty", [1.0, 1.6])
def test_greedy_ids_are_those_of_transformers(pair: tuple[Any, Any], backend: Backend, penalty: float) -> None:
    model, theirs = pair
    prompts = [make_ids(n, seed=n).tolist() for n in LENGTHS]
    decoder = make_decoder(model, eos_id=EOS_ID, backend=backend)
    sampling = replace(GREEDY, max_tokens=N_NEW, repetition_penalty=penalty)
    ours = [made.token_ids for made in run_together(decoder, prompts, sampling)]
    assert ours == [continued_by_transformers(theirs, prompt, repetition_penalty=penalty) for prompt in prompts]
    assert len({i for ids in ours for i in ids}) > 3
    if penalty == 1.0:  # an option that transformers has not would be seen
        other = run_together(decoder, prompts, replace(sampling, repetition_penalty=1.6))
        assert [made.token_ids for made in other] != ours


def theirs_of(logits: torch.Tensor, config: SamplingConfig, seen: torch.Tensor) -> torch.Tensor:
    """What the processors leave, in the order in which `generate` applies them; in FP64, since at a low temperature
    the probabilities of theirs in FP32 are more than 1e-6 from it.
    """
    scores = logits.double()
    if config.repetition_penalty != 1:
        scores = transformers.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)(seen, scores)
    steps: list[Callable[..., torch.Tensor]] = [transformers.TemperatureLogitsWarper(config.temperature)]
    if config.top_k:
        steps.append(transformers.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(transformers.TopPLogitsWarper(config.top_p))
    if config.min_p:
        steps.append(transformers.MinPLogitsWarper(config.min_p))
    for step in steps:
        scores = step(seen, scores)
    return scores


def ours_of(logits: torch.Tensor, config: SamplingConfig, seen: torch.Tensor) -> torch.Tensor:
    rows = rows_of([config] * len(logits), vocab_size=logits.shape[-1])
    is_seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, seen, True)
    return filter_rows(adjust_rows(logits, rows, is_seen=is_seen), rows)


def is_decided(logits: torch.Tensor, config: SamplingConfig, seen: torch.Tensor) -> bool:
    """Whether rounding cannot tip what top-k, top-p and min-p keep."""
    penalized = theirs_of(logits, replace(config, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0), seen)
    ordered = penalized.sort(-1, descending=True).values
    k = config.top_k
    if 0 < k < logits.shape[-1] and (ordered[:, k - 1] - ordered[:, k] <= 1e-6 * ordered[:, k].abs()).any():
        return False
    before = theirs_of(logits, replace(config, top_p=1.0, min_p=0.0), seen).softmax(-1).sort(-1, descending=True).values
    if config.top_p < 1 and ((before.cumsum(-1) - config.top_p).abs() < 1e-5).any():
        return False
    return not config.min_p or not ((before / before[:, :1] - config.min_p).abs() < 1e-5).any()


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.2, 3),
        "top_k": st.sampled_from([0, 0, 1, 2, 5, 40, 400, 5000]),
        "top_p": st.just(1.0) | st.floats(0.05, 0.99),
        "min_p": st.just(0.0) | st.floats(0.001, 0.9),
        "repetition_penalty": st.just(1.0) | st.floats(0.5, 2.5),
    }
)


@settings(max_examples=150)
@given(options=OPTIONS, seed=st.integers(0, 2**32), spread=st.floats(0.5, 8), v=st.sampled_from([7, 61, 1000, 3000]))
def test_distributions_are_those_of_their_processors(options: dict[str, Any], seed: int, spread: float, v: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(3, v, generator=generator)
    seen = torch.randint(v, (3, 9), generator=generator)
    config = SamplingConfig(**options | {"top_k": min(options["top_k"], v)})
    assume(is_decided(logits, config, seen))
    ours, theirs = ours_of(logits, config, seen), theirs_of(logits, config, seen)
    assert torch.equal(ours.isneginf(), theirs.isneginf())
    assert (ours.softmax(-1) - theirs.softmax(-1)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.8}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.05}, {"repetition_penalty": 1.1}],
    ids=str,
)
def test_each_option_changes_the_distribution(change: dict[str, Any]) -> None:
    """The partner of the test above: it would see an option that is not applied."""
    logits = torch.randn(3, 61, generator=torch.Generator().manual_seed(0))
    seen = torch.randint(61, (3, 9), generator=torch.Generator().manual_seed(1))
    plain = SamplingConfig()
    changed = replace(plain, **change)
    theirs = theirs_of(logits, changed, seen).softmax(-1)
    assert (ours_of(logits, plain, seen).softmax(-1) - theirs).abs().max() > 1e-3
    assert (ours_of(logits, changed, seen).softmax(-1) - theirs).abs().max() <= 1e-6


@given(several=st.lists(OPTIONS, min_size=2, max_size=5), seed=st.integers(0, 1000), ties=st.booleans())
def test_a_row_is_filtered_alike_whatever_the_others(several: list[dict[str, Any]], seed: int, ties: bool) -> None:
    configs = [SamplingConfig(**options) for options in several]
    v = 2500  # enough for the short way of top-p
    logits = 3 * torch.randn(len(configs), v, generator=torch.Generator().manual_seed(seed))
    if ties:
        logits = logits.round()
    together = filter_rows(logits, rows_of(configs, vocab_size=v))
    for i, config in enumerate(configs):
        alone = filter_rows(logits[i : i + 1], rows_of([config], vocab_size=v))
        torch.testing.assert_close(together[i : i + 1], alone)
        assert torch.equal(together[i : i + 1] > -torch.inf, alone > -torch.inf)


@given(p=st.floats(0.05, 0.999), seed=st.integers(0, 1000), spread=st.sampled_from([0.01, 6]), ties=st.booleans())
def test_the_short_way_of_top_p_is_the_long_one(p: float, seed: int, spread: float, ties: bool) -> None:
    logits = spread * torch.randn(2, 2500, generator=torch.Generator().manual_seed(seed))
    if ties:
        logits = (logits * 4).round() / 4
    found = filter_rows(logits, rows_of([SamplingConfig(top_p=p)] * 2, vocab_size=2500)) > -torch.inf
    order = logits.argsort(dim=-1, descending=True, stable=True)
    mass = logits.softmax(-1).gather(-1, order)
    is_cut = mass.cumsum(-1) - mass >= p
    assert torch.equal(found, ~is_cut.scatter(-1, order, is_cut))
