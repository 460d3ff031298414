"""Other people's clients: OpenAI's own, schemathesis, lm-evaluation-harness."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving_helpers import Running, running


@pytest.fixture
def openai() -> Any:
    return pytest.importorskip("openai", reason="needs pip install 'smalllm[dev]'")


def test_openai_s_client_is_served(openai: Any, tiny_run: Path) -> None:
    with running([tiny_run], token="a-token") as web, web_client(openai, web, "a-token") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").context_length == 64
        fields = {"model": "tiny", "prompt": "The cat", "max_tokens": 12, "temperature": 0.8, "seed": 4}
        whole = client.completions.create(**fields, logprobs=2, stop=["zzz"], n=2, logit_bias={"65": -100})
        assert whole.object == "text_completion" and whole.usage.prompt_tokens == 7 and len(whole.choices) == 2
        assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.token_logprobs) >= 12
        whole = client.completions.create(**fields, extra_body={"top_k": 5, "return_token_ids": True})
        stream = client.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}, extra_body={"top_k": 5}
        )
        chunks = list(stream)
        assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
        assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason is not None
        with pytest.raises(openai.BadRequestError, match="max_tokens") as caught:
            client.completions.create(**{**fields, "max_tokens": 999})
        assert caught.value.param == "max_tokens" and caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError, match="served are tiny"):
            client.completions.create(model="gpt", prompt="a")
        with web_client(openai, web, "no") as other, pytest.raises(openai.AuthenticationError, match="is wrong"):
            other.models.list()


def web_client(openai: Any, web: Running, token: str) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{web.port}/v1", api_key=token, max_retries=0, timeout=15)


# --- requests drawn from the server's own description


def try_all(web: Running, n_examples: int) -> int:
    """Send requests of every kind that the description allows and forbids; how many there were."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install 'smalllm[dev]'")
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{web.port}/openapi.json", timeout=15)
    statuses: list[int] = []

    @given(case=st.one_of(*[operation.ok().as_strategy() for operation in schema.get_all_operations()]))
    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call(timeout=15)
        statuses.append(answer.status_code)
        assert answer.status_code < 500, (case.path, case.body, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "Traceback" not in answer.text

    ask()
    assert 200 in statuses
    return len(statuses)


@pytest.mark.filterwarnings("ignore")
def test_no_request_of_the_description_fails(web: Running) -> None:
    assert try_all(web, 25) >= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_of_the_description_fails_for_long(web: Running) -> None:
    assert try_all(web, 3_000) >= 3_000


def test_the_description_is_whole(web: Running) -> None:
    found = web.ask("/openapi.json").json
    text = json.dumps(found)
    assert "$defs" not in text and set(found["paths"]) >= {"/v1/completions", "/tokenize", "/distribution", "/health"}
    body = found["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "logprobs", "min_p", "past_context", "return_token_ids"} <= set(body["properties"])
    assert body["additionalProperties"] is False
