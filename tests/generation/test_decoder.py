"""Sequences that come and go in a batch are what each would be alone; the two readers agree."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from generation_helpers import (
    BACKENDS,
    BYTES,
    GREEDY,
    PROMPTS,
    greedy_by_full_passes,
    make_decoder,
    run_alone,
    run_together,
    with_tokens,
)
from smalllm import runtime
from smalllm.config import ModelConfig
from smalllm.errors import ConfigError
from smalllm.generation.engine import Generation, run_prompts
from smalllm.generation.native import NativeReader, quantize
from smalllm.generation.readers import Backend
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.torch_reader import TorchReader
from smalllm.model.gpt import GPT

MakeModel = Callable[..., GPT]
SAMPLED = SamplingConfig(max_tokens=12, seed=3)
needs_compiler = pytest.mark.skipif("compiled" not in BACKENDS, reason="decode.cpp cannot be compiled here")


# --- the same ids


@pytest.mark.parametrize("backend", BACKENDS)
def test_prompts_of_different_lengths_together_are_those_alone_and_the_full_pass(
    any_config: ModelConfig, make_model: MakeModel, backend: Backend
) -> None:
    model = make_model(replace(any_config, context_length=32))
    decoder = make_decoder(model, backend=backend)  # four slots for five prompts: one waits
    assert decoder.backend == backend
    together = run_together(decoder, PROMPTS, with_tokens(12))
    assert together == run_alone(decoder, PROMPTS, with_tokens(12))
    assert [made.token_ids for made in together] == [greedy_by_full_passes(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(made.token_ids) for made in together}) == 5
    assert decoder.n_free == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_of_another_sequence_would_be_noticed(
    any_config: ModelConfig, make_model: MakeModel, backend: Backend
) -> None:
    model = make_model(replace(any_config, context_length=32))
    decoder = make_decoder(model, backend=backend)
    slots = [decoder.add(prompt, with_tokens(12)) for prompt in PROMPTS[:2]]
    made: dict[int, list[int]] = {slot: [] for slot in slots}
    for i in range(12):
        for event in decoder.step():
            assert event.token_id is not None
            made[event.slot].append(event.token_id)
        if i == 4:
            decoder._reader.copy(slots[0], slots[1])
    assert made[slots[0]] == greedy_by_full_passes(model, PROMPTS[0], 12)
    assert made[slots[1]] != greedy_by_full_passes(model, PROMPTS[1], 12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_decides_a_sequence_whatever_else_is_in_the_batch(
    any_config: ModelConfig, make_model: MakeModel, backend: Backend
) -> None:
    decoder = make_decoder(make_model(any_config), backend=backend)
    asked = [(prompt, replace(SAMPLED, seed=i, top_k=5 * i, top_p=1 - i / 9)) for i, prompt in enumerate(PROMPTS)]
    together = run_prompts(decoder, asked)
    assert together == [run_prompts(decoder, [one])[0] for one in asked]
    assert together[::-1] == run_prompts(decoder, asked[::-1])
    assert together != run_prompts(decoder, [(prompt, replace(s, seed=s.seed + 1)) for prompt, s in asked])


@needs_compiler
@pytest.mark.parametrize("matrix_unit", [True, False])
def test_compiled_logits_do_not_depend_on_the_batch_by_a_bit(
    any_config: ModelConfig, make_model: MakeModel, matrix_unit: bool
) -> None:
    model = make_model(replace(any_config, context_length=130))
    rows = [torch.randint(61, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (90, 1, 7, 33, 128)]
    for weights in ("fp32", "bf16", "int8"):
        reader = NativeReader(model, n_slots=20, weights=weights, matrix_unit=matrix_unit)
        together = reader.read(range(5), rows, [0] * 5).clone()
        for i, row in enumerate(rows):
            assert torch.equal(reader.read([9], [row], [0])[0], together[i])
            for start in range(0, len(row), 5):  # in pieces, too
                pieces = reader.read([11], [row[start : start + 5]], [start])
            assert torch.equal(pieces[0], together[i])
        many = reader.read(range(20), [rows[2]] * 20, [0] * 20)
        assert torch.equal(many, together[2].expand(20, -1))


@needs_compiler
def test_both_readers_give_the_logits_of_the_model(any_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(any_config)
    for backend in BACKENDS:
        reader = make_decoder(model, n_slots=3, backend=backend)._reader
        ids = torch.randint(61, (3, 14), generator=torch.Generator().manual_seed(0))
        found = [reader.read([2, 0, 1], ids[:, :9].tolist(), [0] * 3).clone()]
        for t in range(9, 14):
            found.append(reader.read([2, 0, 1], ids[:, t : t + 1].tolist(), [t] * 3).clone())
        expected = model(ids).detach()[:, 8:]
        torch.testing.assert_close(torch.stack(found, dim=1), expected, rtol=1e-4, atol=2e-5)  # other sums: 2 ulp


@needs_compiler
@pytest.mark.parametrize("matrix_unit", [True, False])
@pytest.mark.parametrize(("weights", "most"), [("bf16", 0.02), ("int8", 0.06)])
def test_narrow_weights_are_near_and_exactly_those_rounded(
    any_config: ModelConfig, make_model: MakeModel, weights: str, most: float, matrix_unit: bool
) -> None:
    model, rounded = make_model(any_config), make_model(any_config)
    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear):
            w = module.weight.detach()
            q, scale = quantize(w)
            narrow = w.bfloat16().float() if weights == "bf16" else q * scale[:, None]
            module.weight = torch.nn.Parameter(narrow)  # a tied embedding stays as it was
    row = torch.randint(61, (16,), generator=torch.Generator().manual_seed(1))
    reader = NativeReader(model, n_slots=1, weights=weights, matrix_unit=matrix_unit)
    (found,) = reader.read([0], [row.tolist()], [0])
    expected, full = rounded(row[None])[0, -1].detach(), model(row[None])[0, -1].detach()
    # What is left is the cache in BF16: 8 bits of each key and value.
    assert (found - expected).abs().max() < 0.01 * full.abs().max()
    assert 1e-4 < (found - full).abs().max() < most * full.abs().max()


def test_int8_rounds_to_the_nearest_of_255_steps() -> None:
    weight = torch.tensor([[1.27, -0.5, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0]])
    q, scale = quantize(weight)
    assert q.tolist() == [[127, -50, 0, 0], [0, 0, 0, 0]]
    assert ((q * scale[:, None] - weight).abs() <= scale[:, None] / 2).all()


# --- coming and going


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_join_and_leave_while_others_go_on(
    tiny_config: ModelConfig, make_model: MakeModel, backend: Backend
) -> None:
    model = make_model(replace(tiny_config, context_length=32))
    decoder = make_decoder(model, backend=backend, n_slots=2)
    first, second = decoder.add(PROMPTS[0], with_tokens(10)), decoder.add(PROMPTS[1], with_tokens(3))
    assert decoder.n_free == 0 and decoder.active == (first, second)
    with pytest.raises(ConfigError, match="all 2 slots are in use"):
        decoder.add([1], GREEDY)
    made: dict[int, list[int | None]] = {first: [], second: []}
    reasons = []
    for _ in range(3):
        for event in decoder.step():
            made[event.slot].append(event.token_id)
            reasons.append(event.finish_reason)
    assert reasons == [None] * 5 + ["length"] and decoder.active == (first,)
    third = decoder.add(PROMPTS[2], with_tokens(20))
    made[third] = []
    for _ in range(7):
        for event in decoder.step():
            made[event.slot].append(event.token_id)
    assert made[first] == greedy_by_full_passes(model, PROMPTS[0], 10)
    assert made[third] == greedy_by_full_passes(model, PROMPTS[2], 7)
    decoder.remove(third)
    assert decoder.n_free == 2 and decoder.step() == []
    with pytest.raises(ConfigError, match="nothing to remove"):
        decoder.remove(third)


def test_long_prompts_wait_for_their_turn_and_do_not_hold_up_others(
    tiny_config: ModelConfig, make_model: MakeModel
) -> None:
    decoder = make_decoder(make_model(tiny_config), prompt_tokens=12, n_slots=4)
    going = decoder.add([1], GREEDY)
    decoder.step()
    late = [decoder.add([i] * 10, GREEDY) for i in range(3)]
    heard = [[event.slot for event in decoder.step()] for _ in range(4)]
    assert heard == [[going, late[0]], [going, *late[:2]], [going, *late], [going, *late]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_sequence_waits_for_ever(tiny_config: ModelConfig, make_model: MakeModel, backend: Backend) -> None:
    """Half the context of the long one fits into a step only when it comes first; short ones come all the time."""
    model = make_model(replace(tiny_config, context_length=32))
    decoder = make_decoder(model, backend=backend, prompt_tokens=16, n_slots=3)
    decoder.add([1, 2], with_tokens(1))
    long = decoder.add([5] * 10, with_tokens(100))
    made, pauses, last = [], [], 0
    for i in range(200):
        while decoder.n_free and long in decoder.active:
            decoder.add([3, i % 60], with_tokens(1))
        for event in decoder.step():
            if event.slot == long and len(made) < 100:
                made.append(event.token_id)
                pauses.append(i - last)
                last = i
    assert len(made) == 100 and max(pauses) <= 2
    (alone,) = run_prompts(make_decoder(model, backend=backend), [([5] * 10, with_tokens(100))])
    assert made == alone.token_ids and alone.n_dropped > 0


def test_prompts_are_read_in_the_order_in_which_they_came(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    decoder = make_decoder(make_model(tiny_config), prompt_tokens=10, n_slots=3)
    first = decoder.add([1] * 9, with_tokens(1))
    second = decoder.add([2] * 9, with_tokens(2))
    assert (decoder.n_unread(), decoder.n_unread([1] * 9), decoder.n_unread([3], [3], [])) == (18, 18, 20)
    assert [event.slot for event in decoder.step()] == [first]
    assert decoder.add([3] * 9, with_tokens(2)) == first  # the freed slot, before the one that waits longer
    assert [event.slot for event in decoder.step()] == [second]
    assert [event.slot for event in decoder.step()] == [first, second]
    assert decoder.n_unread() == 0
    decoder.remove(decoder.add([4] * 99, GREEDY))
    assert decoder.n_unread() == 0 and decoder.n_unread([4] * 99) == 16


def test_equal_prompts_are_read_once(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    decoder = make_decoder(make_model(tiny_config), n_slots=4)
    read: list[int] = []
    reader = decoder._reader
    original = reader.read

    def counting(slots: list[int], rows: list[list[int]], starts: list[int]) -> torch.Tensor:
        read.append(sum(map(len, rows)))
        return original(slots, rows, starts)

    reader.read = counting  # type: ignore[method-assign, assignment]
    asked = [(PROMPTS[3], replace(SAMPLED, seed=i)) for i in range(3)] + [([4], SAMPLED)]
    together = run_prompts(decoder, asked)
    assert read[:2] == [12, 4]
    assert together == [run_prompts(decoder, [one])[0] for one in asked]
    narrow = make_decoder(make_model(tiny_config), n_slots=4, prompt_tokens=12)  # fits once
    slots = [narrow.add(*one) for one in asked]
    assert [event.slot for event in narrow.step()] == slots


# --- what a sequence says


def test_log_probabilities_are_the_models_own(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    sampling = replace(SAMPLED, logprobs=3, temperature=0.3, top_k=4, repetition_penalty=1.5, max_tokens=9)
    plain, made = run_prompts(
        make_decoder(model), [(PROMPTS[0], replace(sampling, logprobs=None)), (PROMPTS[0], sampling)]
    )
    assert plain.token_ids == made.token_ids and plain.logprobs == [] and len(made.logprobs) == 9
    with torch.no_grad():
        expected = model(torch.tensor([PROMPTS[0] + made.token_ids]))[0, 3:-1].log_softmax(-1)
    torch.testing.assert_close(torch.tensor(made.logprobs), expected[range(9), made.token_ids], rtol=1e-4, atol=1e-4)
    values, ids = expected.topk(3)
    assert [[i for i, _ in one] for one in made.alternatives] == ids.tolist()
    torch.testing.assert_close(
        torch.tensor([[v for _, v in one] for one in made.alternatives]), values, rtol=1e-4, atol=1e-4
    )


def test_penalties_count_what_was_written(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    decoder = make_decoder(make_model(replace(tiny_config, context_length=64)))
    (plain,) = run_prompts(decoder, [([1, 2], with_tokens(40))])
    assert len(set(plain.token_ids)) < 40  # it repeats itself
    for penalty in ({"presence_penalty": 100.0}, {"frequency_penalty": 100.0}, {"repetition_penalty": 1e9}):
        (made,) = run_prompts(decoder, [([1, 2], replace(with_tokens(40), **penalty))])
        assert len(set(made.token_ids)) == 40
        mixed = run_prompts(decoder, [([1, 2], with_tokens(40)), ([1, 2], replace(with_tokens(40), **penalty))])
        assert [one.token_ids for one in mixed] == [plain.token_ids, made.token_ids]
        assert ({1, 2} & set(made.token_ids) == set()) or "repetition_penalty" not in penalty


def test_bias_forbids_and_forces(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    decoder = make_decoder(make_model(tiny_config))
    (plain,) = run_prompts(decoder, [([1, 2], GREEDY)])
    forbidden = tuple((i, -float("inf")) for i in set(plain.token_ids))
    (other,) = run_prompts(decoder, [([1, 2], replace(GREEDY, logit_bias=forbidden))])
    assert not set(other.token_ids) & set(plain.token_ids)
    (forced,) = run_prompts(decoder, [([1, 2], replace(SAMPLED, logit_bias=((7, 100.0),)))])
    assert forced.token_ids == [7] * 12


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_context_slides_or_stops(tiny_config: ModelConfig, make_model: MakeModel, backend: Backend) -> None:
    decoder = make_decoder(make_model(tiny_config), backend=backend)
    slides, stops = run_prompts(
        decoder, [([5] * 10, with_tokens(30)), ([5] * 10, replace(with_tokens(30), past_context="stop"))]
    )
    assert (slides.finish_reason, len(slides.token_ids), slides.n_dropped > 0) == ("length", 30, True)
    assert (stops.finish_reason, stops.token_ids, stops.n_dropped) == ("context", slides.token_ids[:7], 0)
    with pytest.raises(ConfigError, match="the prompt has 17 tokens and the model sees 16; shorten it"):
        decoder.add([5] * 17, replace(GREEDY, past_context="stop"))
    assert decoder.active == ()


def test_stop_texts_end_a_text_before_them(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(replace(tiny_config, context_length=64), vocab_size=257)
    letters = tuple((i, 100.0) for i in b"abcd")
    decoder = make_decoder(model, tokenizer=BYTES, eos_id=BYTES.eos_id)
    sampling = replace(SAMPLED, logit_bias=letters, max_tokens=60)
    (plain,) = run_prompts(decoder, [([], sampling)])
    stop = plain.text[20:23]  # three tokens
    assert len(plain.text) == 60 and plain.text == BYTES.decode(plain.token_ids)
    told: list[str] = []
    (made,) = run_prompts(
        decoder, [([], replace(sampling, stop=(stop, "nothing")))], on_event=lambda _, event: told.append(event.text)
    )
    assert made.text == "".join(told) == plain.text[: plain.text.index(stop)]
    assert made.finish_reason == "stop" and made.token_ids == plain.token_ids[: plain.text.index(stop) + 3]
    assert decoder.n_free == 4


# --- what is refused


def test_wrong_prompts_and_options(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config)
    decoder = make_decoder(model)
    with pytest.raises(ConfigError, match="token id 61 is not below 61"):
        decoder.add([1, 61], GREEDY)
    with pytest.raises(ConfigError, match="stop: texts to stop at need a tokenizer"):
        decoder.add([1], replace(GREEDY, stop=("a",)))
    with pytest.raises(ConfigError, match="must be token ids below 61"):
        decoder.add([1], replace(GREEDY, logit_bias=((61, 1.0),)))
    everything = tuple((i, -float("inf")) for i in range(61))
    with pytest.raises(ConfigError, match="forbids every token"):
        decoder.add([1], replace(GREEDY, logit_bias=everything))
    assert decoder.active == () and decoder.step() == []
    with pytest.raises(ConfigError, match="n_slots = 0"):
        make_decoder(model, n_slots=0)
    with pytest.raises(ConfigError, match='precision = "int8": only the compiled decoder has it'):
        make_decoder(model, backend="torch", precision="int8")
    for backend in ("auto", "torch", "compiled"):
        for precision, said in (
            ("fp23", '"fp23": must be one of fp32, bf16, int8 on cpu'),
            ("tf32", "CUDA"),
            ("fp16", "CUDA"),
        ):
            with pytest.raises(ConfigError, match=said):
                make_decoder(model, backend=backend, precision=precision)


def test_a_step_of_all_slots_leaves_the_others_as_they_are(any_config: ModelConfig, make_model: MakeModel) -> None:
    """What is captured as a CUDA graph, without the graph: it reads idle slots too, at places of long ago, and is
    repeated when it is captured.
    """
    model = make_model(replace(any_config, context_length=32))
    decoder = make_decoder(model, backend="torch", n_slots=3, prompt_tokens=12)
    decoder._reader = TorchReader(model, n_slots=3, weights="fp32", capture=lambda step: (step(), step(), step)[-1])
    asked = [
        (prompt, with_tokens(n)) for prompt, n in zip(PROMPTS * 2, (12, 3, 20, 5, 9, 7, 2, 30, 16, 4), strict=True)
    ]
    together = run_prompts(decoder, asked)
    assert together == [run_prompts(make_decoder(model, backend="torch"), [one])[0] for one in asked]


def test_tf32_is_a_switch_of_cuda_alone() -> None:
    found = []
    for precision, device in (("tf32", "cpu"), ("tf32", "cuda"), ("fp32", "mps"), ("bf16", "cuda")):
        runtime.use_products(precision, device)
        found.append(torch.get_float32_matmul_precision())
    assert found == ["highest", "high", "high", "highest"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tf32_is_what_cuda_multiplies_in(any_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(replace(any_config, d_model=256)).to("cuda")
    readers = [TorchReader(model, n_slots=1, weights=weights, device="cuda") for weights in ("fp32", "tf32")]
    exact, rounded, again = (reader.read([0], [PROMPTS[3]], [0]) for reader in (*readers, readers[0]))
    assert torch.equal(exact, again) and 0 < (exact - rounded).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_models_in_two_threads_are_captured_in_turn(any_config: ModelConfig, make_model: MakeModel) -> None:
    models = [make_model(replace(any_config, context_length=1024), seed=seed).to("cuda") for seed in range(2)]
    asked = with_tokens(1000)  # captures of 128, 256, 512 and 1,024 positions

    def write(model: GPT) -> list[Generation]:
        return run_together(make_decoder(model, device="cuda"), PROMPTS, asked)

    alone = [write(model) for model in models]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, models)) == alone


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_give_what_the_cpu_gives(any_config: ModelConfig, make_model: MakeModel, precision: str) -> None:
    config = replace(any_config, context_length=256)
    expected = run_together(make_decoder(make_model(config), backend="torch"), PROMPTS, with_tokens(150))
    decoder = make_decoder(make_model(config).to("cuda"), device="cuda", precision=precision)
    found = run_together(decoder, PROMPTS, with_tokens(150))
    assert all(len(made.token_ids) == 150 for made in found)
    if precision == "fp32":
        assert [made.token_ids for made in found] == [made.token_ids for made in expected]
