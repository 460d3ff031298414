"""Generation with a cache is generation without one; long prompts, ends, seeds, and text that streams."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import ConfigError
from smalllm.generation.engine import generate_tokens
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.text import TextStream
from smalllm.model.gpt import GPT
from smalllm.model.kv_cache import KVCache
from smalllm.tokenizers.bytes import build_bytes

MakeModel = Callable[..., GPT]
BYTES = build_bytes()
CONTEXT = 16
EOS = 60
NEVER = -1  # an end-of-document id that is never drawn
GREEDY = SamplingConfig(temperature=0.0, max_tokens=8)


def new_cache(model: GPT, *, n_sequences: int) -> KVCache:
    return KVCache(model.config, n_sequences=n_sequences, n_positions=CONTEXT)


@torch.no_grad()
def cached_logits(model: GPT, token_ids: Tensor, chunks: Sequence[int]) -> Tensor:
    """The logits of `token_ids`, fed in pieces of these lengths."""
    cache = new_cache(model, n_sequences=len(token_ids))
    return torch.cat([model(piece, cache=cache) for piece in token_ids.split(list(chunks), dim=1)], dim=1)


@torch.no_grad()
def next_token(model: GPT, token_ids: Sequence[int]) -> int:
    return int(model(torch.tensor([token_ids]))[0, -1].argmax())


# --- the cache


@pytest.mark.parametrize("chunks", [[5, *[1] * 11], [1] * 16, [4, 3, 1, 8], [16]], ids=str)
def test_cached_decoding_is_the_full_forward_pass(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor, chunks: list[int]
) -> None:
    model = make_model(any_config)
    torch.testing.assert_close(cached_logits(model, token_ids, chunks), model(token_ids).detach())


def test_a_cache_that_forgets_or_miscounts_is_noticed(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model = make_model(any_config)
    with torch.no_grad():
        full = model(token_ids)[:, 8]
        for spoil in ("key", "position"):
            cache = new_cache(model, n_sequences=len(token_ids))
            model(token_ids[:, :8], cache=cache)
            if spoil == "key":
                cache.keys[:, :, :, 0] = 0
            else:
                cache.length -= 1
            assert not torch.allclose(model(token_ids[:, 8:9], cache=cache)[:, 0], full, atol=1e-3)


def test_cached_greedy_ids_are_those_of_the_full_forward_pass(any_config: ModelConfig, make_model: MakeModel) -> None:
    model, said = make_model(any_config), set()
    for prompt in ([7, 3, 3, 50], [1], [20, 30, 40]):
        ids = list(prompt)
        for _ in range(12):
            ids.append(next_token(model, ids))
        (made,) = generate_tokens(model, prompt, replace(GREEDY, max_tokens=12), eos_id=NEVER)
        assert made.token_ids == ids[len(prompt) :]
        assert (made.finish_reason, made.n_dropped) == ("length", 0)
        said |= set(made.token_ids)
    assert len(said) > 2  # not one token over and over, which any error would leave unchanged


def test_bf16_is_generated_with_a_bf16_cache(any_config: ModelConfig, make_model: MakeModel) -> None:
    made = generate_tokens(make_model(any_config), [1, 2], GREEDY, eos_id=NEVER, n=2, precision="bf16")
    assert [len(m.token_ids) for m in made] == [8, 8]


# --- the context


def windowed(model: GPT, prompt: list[int], *, n_tokens: int) -> tuple[list[int], int]:
    """Greedy tokens as the module says: a full context goes on from its newest half. Also what was forgotten."""
    ids, start = list(prompt), max(0, len(prompt) - CONTEXT)
    for _ in range(n_tokens):
        if len(ids) - start > CONTEXT:
            start = len(ids) - CONTEXT // 2
        ids.append(next_token(model, ids[start:]))
    return ids[len(prompt) :], start


@pytest.mark.parametrize("n_prompt", [1, 10, 15, 16, 17, 40])
@pytest.mark.parametrize("n_tokens", [1, 2, 9, 10, 30])
def test_generation_goes_on_past_the_context(
    tiny_config: ModelConfig, make_model: MakeModel, n_prompt: int, n_tokens: int
) -> None:
    model = make_model(tiny_config)
    prompt = torch.randint(61, (n_prompt,), generator=torch.Generator().manual_seed(n_prompt)).tolist()
    (made,) = generate_tokens(model, prompt, replace(GREEDY, max_tokens=n_tokens), eos_id=NEVER)
    expected, n_dropped = windowed(model, prompt, n_tokens=n_tokens)
    assert made.token_ids == expected
    assert made.n_dropped == n_dropped
    if n_prompt == 40:  # only the newest 16 tokens of the prompt were read
        assert (
            made.token_ids
            == generate_tokens(model, prompt[24:], replace(GREEDY, max_tokens=n_tokens), eos_id=NEVER)[0].token_ids
        )
        assert made.n_dropped >= 24


def test_a_context_of_one_token_works(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(replace(tiny_config, context_length=1))
    (made,) = generate_tokens(model, [3, 4], replace(GREEDY, max_tokens=3), eos_id=NEVER)
    first = next_token(model, [4])
    second = next_token(model, [first])
    assert made.token_ids == [first, second, next_token(model, [second])]
    assert made.n_dropped == 3


# --- beginnings and ends


def test_an_empty_prompt_starts_a_document(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    sampling = SamplingConfig(max_tokens=8)
    empty, eos, other = (generate_tokens(model, prompt, sampling, eos_id=EOS, n=4) for prompt in ([], [EOS], [1]))
    assert empty == eos != other


def test_the_end_of_the_document_stops_and_is_not_part_of_it(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    (endless,) = generate_tokens(model, [7, 3, 3, 50], GREEDY, eos_id=NEVER)
    end = endless.token_ids[3]
    (made,) = generate_tokens(model, [7, 3, 3, 50], GREEDY, eos_id=end)
    assert made.token_ids == endless.token_ids[: endless.token_ids.index(end)]
    assert made.finish_reason == "stop"


def test_a_long_prompt_that_ends_at_once_still_says_what_was_dropped(
    tiny_config: ModelConfig, make_model: MakeModel
) -> None:
    model, prompt = make_model(tiny_config), list(range(40))
    (made,) = generate_tokens(model, prompt, GREEDY, eos_id=next_token(model, prompt[24:]))
    assert (made.token_ids, made.finish_reason, made.n_dropped) == ([], "stop", 24)


# --- samples


def test_sample_i_does_not_depend_on_how_many_are_asked_for(any_config: ModelConfig, make_model: MakeModel) -> None:
    model, sampling = make_model(any_config), SamplingConfig(max_tokens=20, seed=5)
    four = generate_tokens(model, [1, 2, 3], sampling, eos_id=EOS, n=4)
    for n in (1, 2, 3):
        assert generate_tokens(model, [1, 2, 3], sampling, eos_id=EOS, n=n) == four[:n]
    assert len({tuple(made.token_ids) for made in four}) == 4
    assert generate_tokens(model, [1, 2, 3], replace(sampling, seed=6), eos_id=EOS, n=4) != four


def test_samples_end_one_by_one(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model, sampling = make_model(tiny_config), SamplingConfig(temperature=3.0, max_tokens=60)
    told: dict[int, list[int]] = {}
    made = generate_tokens(
        model, [1], sampling, eos_id=EOS, n=12, on_token=lambda i, token_id: told.setdefault(i, []).append(token_id)
    )
    assert {m.finish_reason for m in made} == {"stop", "length"}
    assert all(len(m.token_ids) == 60 for m in made if m.finish_reason == "length")
    assert all(len(m.token_ids) < 60 for m in made if m.finish_reason == "stop")
    assert all(EOS not in m.token_ids for m in made)
    assert told == {i: m.token_ids for i, m in enumerate(made) if m.token_ids}
    assert all(m.n_dropped >= 0 and m.n_dropped <= len(m.token_ids) for m in made)


def test_generation_turns_dropout_off(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(replace(tiny_config, dropout=0.5)).train()
    assert generate_tokens(model, [1], GREEDY, eos_id=NEVER) == generate_tokens(model, [1], GREEDY, eos_id=NEVER)


def test_wrong_options_are_refused_before_anything_is_drawn(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    with pytest.raises(ConfigError, match="temperature = -1"):
        generate_tokens(model, [1], SamplingConfig(temperature=-1.0), eos_id=EOS)
    with pytest.raises(ConfigError, match="n = 0: must be at least 1"):
        generate_tokens(model, [1], GREEDY, eos_id=EOS, n=0)


# --- text that streams


@given(text=st.text(max_size=30))
@example(text="👩‍👩‍👧 naïve 🎉€")
def test_a_stream_gives_whole_characters_that_join_to_the_text(text: str) -> None:
    stream = TextStream(BYTES)
    parts = [stream.add(token_id) for token_id in BYTES.encode(text)]
    assert stream.end() == ""
    assert "".join(parts) == text
    assert all(len(part) <= 1 for part in parts)  # a byte completes one character or none


@given(st.lists(st.integers(0, 256), max_size=40))
@example([0xF0, 0x9F, 0x8E])  # an emoji without its last byte
def test_a_stream_of_any_bytes_joins_to_what_decode_gives(token_ids: list[int]) -> None:
    stream = TextStream(BYTES)
    joined = "".join([*(stream.add(token_id) for token_id in token_ids), stream.end()])
    assert joined == BYTES.decode(token_ids)


def test_decoding_token_by_token_would_break_characters() -> None:
    broken = "".join(BYTES.decode([token_id]) for token_id in BYTES.encode("é"))
    assert broken == "\ufffd\ufffd"
