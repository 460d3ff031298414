"""Bodies: what is out of range, of another type or misspelt is refused with its name, and never changed silently."""

from typing import Any

import pytest

from serving_helpers import Running

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": "1"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"),
    ({"temperature": 999_999}, "temperature", "100"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": -1}, "top_p", "greater than 0"),
    ({"top_p": 1.1}, "top_p", "1"),
    ({"top_k": -1}, "top_k", "0"),
    ({"top_k": 1.5}, "top_k", "integer"),
    ({"min_p": 2}, "min_p", "1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "0.01"),
    ({"presence_penalty": 101}, "presence_penalty", "100"),
    ({"frequency_penalty": -101}, "frequency_penalty", "-100"),
    ({"max_tokens": -1}, "max_tokens", "0"),
    ({"max_tokens": None, "n": 0}, "n", "1"),
    ({"n": 17}, "n", "16"),
    ({"n": 16, "prompt": ["a"] * 9}, "n", "128"),
    ({"prompt": ["a"] * 65}, "prompt", "64"),
    ({"prompt": 3}, "prompt", "text"),
    ({"prompt": None}, "prompt", "text"),
    ({"prompt": ["a", 1]}, "prompt", "text"),
    ({"prompt": [True]}, "prompt", "text"),
    ({"prompt": [1.0]}, "prompt", "text"),
    ({"prompt": [-1]}, "prompt", "-1"),
    ({"prompt": [257]}, "prompt", "256"),
    ({"prompt": [[1], [2**70]]}, "prompt", "256"),
    ({"prompt": "\ud800"}, "prompt", "surrogate"),
    ({"logprobs": 21}, "logprobs", "20"),
    ({"logprobs": -1}, "logprobs", "0"),
    ({"logprobs": 20, "n": 16, "max_tokens": 30_000, "past_context": "slide"}, "max_tokens", "500,000"),
    ({"stop": ["a"] * 17}, "stop", "16"),
    ({"stop": ""}, "stop", "1 to 64"),
    ({"stop": "a" * 65}, "stop", "64"),
    ({"stop": [1]}, "stop", "text"),
    ({"seed": -1}, "seed", "0"),
    ({"seed": 2**63}, "seed", "9223372036854775808"),
    ({"logit_bias": {"257": 1}}, "logit_bias", "256"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "token id"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
    ({"logit_bias": {"1": 1, "01": 2}}, "logit_bias", "twice"),
    ({"logit_bias": [1]}, "logit_bias", "object"),
    ({"past_context": "slid"}, "past_context", "slide"),
    ({"best_of": 2}, "best_of", "leave it out"),
    ({"suffix": "x"}, "suffix", "leave it out"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
    ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options.include_usag", "include_usage"),
    ({"stream": 1}, "stream", "boolean"),
    ({"echo": "yes"}, "echo", "boolean"),
    ({"temprature": 1}, "temprature", 'did you mean "temperature"?'),
    ({"zzz": 1}, "zzz", "known are"),
    ({"messages": []}, "messages", "no such field"),
    ({"model": 3}, "model", "string"),
]


@pytest.mark.parametrize(("fields", "param", "said"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, said: str, web: Running) -> None:
    answer = web.ask("/v1/completions", {"prompt": "a", **fields})
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param and said in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0}, {"temperature": 100.0}, {"top_p": 1}, {"top_k": 0}, {"top_k": 2**31 - 1}, {"min_p": 0},
        {"max_tokens": 0}, {"n": 16}, {"prompt": ["a"] * 64}, {"logprobs": 20}, {"stop": ["a" * 64] * 16}, {"seed": 0},
        {"seed": 2**63 - 1}, {"logit_bias": {"256": -100}}, {"best_of": 1}, {"suffix": ""}, {"user": "me"},
        {"repetition_penalty": 0.01}, {"repetition_penalty": 100}, {"presence_penalty": -100},
        {"stream_options": None}, {"stop": None}, {"logit_bias": None}, {"stop": []}, {"prompt": []}, {"prompt": [[]]},
        dict.fromkeys(("model", "max_tokens", "n", "stream", "logprobs", "echo", "seed", "user", "temperature")),
    ],
)  # fmt: skip
def test_the_ends_of_the_ranges_and_nulls_are_taken(fields: dict[str, Any], web: Running) -> None:
    assert web.complete(**{"prompt": "a", "max_tokens": 2, **fields})["choices"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"null", "JSON object"),
        (b"[]", "JSON object"),
        (b'{"prompt": "a"', "not JSON"),
        (b'{"prompt": "a"} x', "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": Infinity}', "Infinity"),
        (b'{"seed": 1, "seed": 2}', "'seed' stands twice"),
        (b'{"logit_bias": {"1": 1, "1": 2}}', "stands twice"),
    ],
)
def test_what_is_no_json_object_is_told(body: bytes, said: str, web: Running) -> None:
    answer = web.ask("/v1/completions", body)
    assert answer.status == 400 and said in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"prompt": "a", "return_token_str": True}, "return_token_str"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/distribution", {"prompt": ["a"]}, "prompt"),
        ("/distribution", {"top": 0}, "top"),
        ("/distribution", {"prompt": "a" * 65}, "prompt"),
        ("/distribution", {"n": 1}, "n"),
        ("/distribution", {"top_p": 0}, "top_p"),
    ],
)
def test_the_other_routes_refuse_likewise(path: str, fields: dict[str, Any], param: str, web: Running) -> None:
    answer = web.ask(path, fields)
    assert answer.status == 400 and answer.error["param"] == param
