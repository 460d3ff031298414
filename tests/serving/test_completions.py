"""`/v1/completions`: what is written is what the model writes, and its numbers are the model's."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from device_helpers import ToMps
from serving_helpers import CONTEXT, Running
from smalllm.generation.engine import Generation, generate_tokens
from smalllm.generation.sampling import SamplingConfig
from smalllm.run import Run
from smalllm.serving.scoring import next_tokens

GREEDY = {"temperature": 0, "max_tokens": 20, "return_token_ids": True}


def generated(run: Run, prompt: list[int], n: int = 1, **options: Any) -> list[Generation]:
    sampling = SamplingConfig(**options)
    return generate_tokens(run.model, prompt, sampling, eos_id=run.tokenizer.eos_id, n=n)


def written(choice: dict[str, Any], run: Run, n_prompt: int = 0) -> list[int]:
    """The ids of a choice, without the one that ends a document."""
    return [i for i in choice["token_ids"][n_prompt:] if i != run.tokenizer.eos_id]


def joined(events: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """A choice from the pieces of a stream."""
    pieces = [event["choices"][0] for event in events if event["choices"] and event["choices"][0]["index"] == index]
    whole = pieces[0]
    for piece in pieces[1:]:
        assert whole["finish_reason"] is None
        whole["text"] += piece["text"]
        whole["finish_reason"] = piece["finish_reason"]
        for name in ("token_ids", *(["logprobs"] if piece["logprobs"] else [])):
            if name == "logprobs":
                for key, values in piece[name].items():
                    whole[name][key] += values
            elif name in piece:
                whole[name] += piece[name]
    return whole


@pytest.mark.parametrize("prompt", ["The cat", "", "ä€😀", [104, 105], [[5, 6], [7]], ["The", "A dog"]])
def test_greedy_ids_are_those_of_generate(prompt: Any, web: Running, loaded: Run) -> None:
    found = web.complete(prompt=prompt, **GREEDY)
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    assert len(found["choices"]) == (2 if several else 1)
    ids = found["prompt_token_ids"] if several else [found["prompt_token_ids"]]
    for choice, one in zip(found["choices"], ids, strict=True):
        (made,) = generated(loaded, one, temperature=0.0, max_tokens=20)
        assert written(choice, loaded) == made.token_ids and choice["finish_reason"] == made.finish_reason
        assert choice["text"] == loaded.tokenizer.decode(made.token_ids)
    n_read, n_written = sum(map(len, ids)), sum(len(choice["token_ids"]) for choice in found["choices"])
    assert found["usage"] == {
        "prompt_tokens": n_read,
        "completion_tokens": n_written,
        "total_tokens": n_read + n_written,
    }
    assert (found["object"], found["model"], found["id"][:5]) == ("text_completion", "tiny", "cmpl-")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.3, "top_k": 30, "top_p": 0.9},
        {"min_p": 0.05, "repetition_penalty": 1.3},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4, "logit_bias": {"101": -100.0, "97": 5.5}},
    ],
)
def test_samples_are_those_of_generate(options: dict[str, Any], web: Running, loaded: Run) -> None:
    found = web.complete(prompt=[65, 66], n=3, seed=11, max_tokens=12, return_token_ids=True, **options)
    bias = tuple((int(i), number) for i, number in options.pop("logit_bias", {}).items())
    made = generated(loaded, [65, 66], n=3, seed=11, max_tokens=12, logit_bias=bias, **options)
    assert [written(choice, loaded) for choice in found["choices"]] == [one.token_ids for one in made]
    assert len({tuple(choice["token_ids"]) for choice in found["choices"]}) > 1


def test_an_absent_seed_is_fresh_and_told(web: Running) -> None:
    first, second = (web.complete(prompt="The", max_tokens=30) for _ in range(2))
    assert first["seed"] != second["seed"] and first["choices"][0]["text"] != second["choices"][0]["text"]
    assert web.complete(prompt="The", max_tokens=30, seed=first["seed"])["choices"] == first["choices"]


@pytest.mark.parametrize("options", [{"n": 3}, {"echo": True, "logprobs": 2}, {"stop": ["e", "t"]}, {"max_tokens": 1}])
def test_a_stream_is_the_whole_in_pieces(options: dict[str, Any], web: Running) -> None:
    fields = {"prompt": "The ä", "seed": 3, "max_tokens": 40, "return_token_ids": True, **options}
    whole = web.complete(**fields)
    events = web.stream(**fields, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        assert joined(events, choice["index"]) == choice
    assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"] and events[0]["seed"] == 3
    assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
    assert {event["usage"] for event in events[:-1]} == {None}
    assert "usage" not in web.stream(**fields)[0]


def test_no_piece_has_half_a_character(web: Running) -> None:
    """An emoji's bytes, a token each, are forced in their order: each is likeliest until it was written."""
    text = "\U0001f600"
    bias = {str(byte): 100.0 - 20 * i for i, byte in enumerate(text.encode())}
    fields = {"temperature": 0, "frequency_penalty": 100.0, "logit_bias": bias, "return_token_ids": True}
    for n, expected in enumerate(["\ufffd", "\ufffd", "\ufffd", text], start=1):  # not whole, and then whole
        events = web.stream(prompt="a", max_tokens=n, **fields)
        whole = joined(events)
        assert whole["text"] == expected and whole["token_ids"] == list(text.encode())[:n]
        assert all(event["choices"][0]["text"] in ("", expected) for event in events[1:])


def test_stop_texts_end_the_text_before_them(web: Running) -> None:
    fields = {"prompt": "The", "temperature": 0, "max_tokens": 40}
    text = web.complete(**fields)["choices"][0]["text"]
    stop = text[7:10]
    found = web.complete(**fields, stop=stop)["choices"][0]
    assert found["text"] == text[: text.index(stop)] and found["finish_reason"] == "stop"


# --- log-probabilities


@pytest.mark.parametrize("prompt", [[104, 101, 32, 99], [200], "The cät"])
def test_log_probabilities_are_those_of_the_model(prompt: Any, web: Running, loaded: Run) -> None:
    found = web.complete(prompt=prompt, echo=True, logprobs=3, max_tokens=5, seed=5, return_token_ids=True)
    choice = found["choices"][0]
    ids, told = choice["token_ids"], choice["logprobs"]
    assert ids[: len(found["prompt_token_ids"])] == found["prompt_token_ids"]
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids]))[0].log_softmax(-1)
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None and told["top_token_ids"][0] == []
    for t, token_id in enumerate(ids[1:], start=1):
        assert told["token_logprobs"][t] == pytest.approx(float(logprobs[t - 1, token_id]), abs=1e-4)
        best = logprobs[t - 1].topk(3)
        assert told["top_token_logprobs"][t] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert told["top_token_ids"][t] == best.indices.tolist()
        assert told["tokens"][t] in told["top_logprobs"][t]
    n_prompt = len(found["prompt_token_ids"])
    exact = logprobs[
        torch.arange(n_prompt - 1), torch.tensor(ids[1:n_prompt], dtype=torch.int64)
    ]  # one pass, as the server's
    assert told["token_logprobs"][1:n_prompt] == pytest.approx(exact.tolist(), abs=1e-5)
    assert all(len(told[key]) == len(ids) for key in told)


def test_offsets_lead_to_the_tokens(web: Running) -> None:
    choice = web.complete(prompt="cä€d", echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert choice["text"] == "cä€d" and choice["finish_reason"] == "length"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 2, 2, 3]
    assert choice["logprobs"]["tokens"][0] == "c" and choice["logprobs"]["tokens"][1] == "\ufffd"
    assert [len(top or ()) for top in choice["logprobs"]["top_logprobs"]] == [0, 1, 1, 1, 1, 1, 1]


def test_a_prompt_can_be_scored_without_writing(web: Running) -> None:
    scored = web.complete(prompt=["The cat", "A"], echo=True, logprobs=1, max_tokens=0)
    with_one = web.complete(prompt=["The cat", "A"], echo=True, logprobs=1, max_tokens=1)
    for zero, one in zip(scored["choices"], with_one["choices"], strict=True):
        assert one["logprobs"]["token_logprobs"][:-1] == zero["logprobs"]["token_logprobs"]
    assert scored["usage"]["completion_tokens"] == 0 and with_one["usage"]["completion_tokens"] == 2
    events = web.stream(prompt="The cat", echo=True, logprobs=1, max_tokens=0)
    assert joined(events) == scored["choices"][0]


# --- the end of the context


def test_the_context_is_a_limit_unless_it_may_slide(web: Running) -> None:
    fits = web.complete(prompt=[65] * 60, max_tokens=CONTEXT - 60, temperature=0, logit_bias={"256": -100})
    assert fits["usage"]["completion_tokens"] == CONTEXT - 60
    answer = web.ask("/v1/completions", {"prompt": [65] * 60, "max_tokens": CONTEXT - 59})
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
    assert "60 tokens" in answer.error["message"] and str(CONTEXT) in answer.error["message"]
    assert web.ask("/v1/completions", {"prompt": [65] * 60}).status == 400  # 16 tokens if nothing is said
    slid = web.complete(
        prompt=[65] * 100, max_tokens=50, past_context="slide", logit_bias={"256": -100}, return_token_ids=True
    )
    assert len(slid["choices"][0]["token_ids"]) == 50 and slid["choices"][0]["n_dropped"] > 36
    refused = web.ask("/v1/completions", {"prompt": [65] * 100, "past_context": "slide", "echo": True, "logprobs": 0})
    assert refused.status == 400 and refused.error["param"] == "echo"


# --- the other routes


def test_models_are_listed_with_their_facts(web: Running, loaded: Run) -> None:
    (card,) = web.ask("/v1/models").json["data"]
    assert card == web.ask("/v1/models/tiny").json
    assert (card["id"], card["object"], card["context_length"], card["vocab_size"]) == ("tiny", "model", CONTEXT, 257)
    assert card["recipe"] == "shakespeare" and card["n_parameters"] > 1_000 and card["bits_per_byte"] > 0
    answer = web.ask("/v1/models/tyni")
    assert answer.status == 404 and "tiny" in answer.error["message"]


def test_text_becomes_tokens_and_back(web: Running, loaded: Run) -> None:
    found = web.ask("/tokenize", {"model": "tiny", "prompt": "hä", "return_token_strs": True}).json
    ids = loaded.tokenizer.encode("hä")
    assert found == {"count": 3, "max_model_len": CONTEXT, "tokens": ids, "token_strs": ["h", "\ufffd", "\ufffd"]}
    assert web.ask("/detokenize", {"tokens": ids}).json == {"prompt": "hä"}
    answer = web.ask("/detokenize", {"tokens": [3, 257]})
    assert answer.status == 400 and "257" in answer.error["message"]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5, "top_p": 0.8}, {"top_k": 3}, {"min_p": 0.1, "logit_bias": {"97": 4}}]
)
def test_a_distribution_is_what_is_drawn_from(options: dict[str, Any], web: Running, loaded: Run) -> None:
    found = web.ask("/distribution", {"prompt": "The cat", "top": 257, **options}).json
    tokens = found["tokens"]
    assert len(tokens) == 257 and sum(token["probability"] for token in tokens) == pytest.approx(1)
    assert [t["probability"] for t in tokens] == sorted((t["probability"] for t in tokens), reverse=True)
    assert found["n_kept"] == sum(token["probability"] > 0 for token in tokens)
    kept = sum(math.exp(token["logprob"]) for token in tokens if token["probability"])
    assert found["kept_mass"] == pytest.approx(kept)
    entropy = -sum(t["probability"] * math.log(t["probability"]) for t in tokens if t["probability"])
    assert found["entropy"] == pytest.approx(entropy)
    with torch.no_grad():
        logits = loaded.model(torch.tensor([loaded.tokenizer.encode("The cat")]))[0, -1]
    for token in tokens:
        assert token["logprob"] == pytest.approx(float(logits.log_softmax(-1)[token["id"]]), abs=1e-4)
    short = web.ask("/distribution", {"prompt": "The cat", "top": 5, **options}).json
    assert short["tokens"] == tokens[:5] and short["n_kept"] == found["n_kept"]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_distribution_needs_no_fp64_on_the_device(temperature: float, loaded: Run) -> None:
    sampling = SamplingConfig(temperature=temperature, top_p=0.9, repetition_penalty=1.1)
    model = copy.deepcopy(loaded.model)
    expected = next_tokens(loaded, [65, 66], sampling, 5)
    model.lm_head = ToMps(model.lm_head)  # type: ignore[assignment]
    assert next_tokens(replace(loaded, model=model), [65, 66], sampling, 5) == expected


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1e-320}, {"top_p": 1e-300}, {"top_k": 1}])
def test_a_greedy_distribution_is_one_token(options: dict[str, Any], web: Running) -> None:
    found = web.ask("/distribution", {"prompt": "The", "top": 2, **options}).json
    assert [t["probability"] for t in found["tokens"]] == [1, 0] and found["n_kept"] == 1 and found["entropy"] == 0


def test_numbers_for_prometheus_count(web: Running) -> None:
    def value(name: str) -> float:
        lines = web.ask("/metrics").body.decode().splitlines()
        assert all(line.startswith("#") or len(line.rsplit(" ", 1)) == 2 for line in lines)
        return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])

    names = ("smalllm_tokens_generated_total", "smalllm_tokens_read_total", "smalllm_time_to_first_token_seconds_count")
    before = [value(name) for name in names]
    web.complete(prompt=[65, 66, 67], max_tokens=7, logit_bias={"256": -100})
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [7, 3, 1]
    ok = 'smalllm_http_requests_total{route="/v1/completions",method="POST",status="200"}'
    assert value(ok) > 0 and value("smalllm_model_info") == 1 and value("smalllm_sequences_active") == 0
