"""The routes besides completions: what is served, how text becomes tokens, what may come next, how the server does."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from smalllm import __version__
from smalllm.generation.text import prompt_ids
from smalllm.serving.body import read_json
from smalllm.serving.choices import token_text
from smalllm.serving.errors import RequestError, json_response
from smalllm.serving.fields import DetokenizeFields, DistributionFields, TokenizeFields, read_fields
from smalllm.serving.limits import Limits
from smalllm.serving.metrics import HttpCounts, head, sample
from smalllm.serving.models import Served, find_model
from smalllm.serving.plan import check_ids, check_options, ids_of
from smalllm.serving.scoring import next_tokens
from smalllm.serving.waiting import unless_gone

_TOP = 50


def list_models(models: Sequence[Served]) -> Response:
    """`/v1/models`."""
    return json_response({"object": "list", "data": [served.card() for served in models]})


def show_model(models: Sequence[Served], name: str) -> Response:
    """`/v1/models/{id}`."""
    return json_response(find_model(models, name).card())


async def tokenize(request: Request, models: Sequence[Served], limits: Limits) -> Response:
    """`/tokenize`: the ids of a text, those that a completion would read unless `add_special_tokens` is false."""
    fields = read_fields(TokenizeFields, await read_json(request, limits))
    served = find_model(models, fields.model)
    run, text = served.run, str(fields.prompt)

    def response() -> Response:
        is_bare = fields.add_special_tokens is False
        ids = run.tokenizer.encode(text) if is_bare else prompt_ids(text, run.tokenizer, run.config.data)
        found: dict[str, Any] = {"count": len(ids), "max_model_len": served.context_length, "tokens": ids}
        if fields.return_token_strs:
            found["token_strs"] = [token_text(run.tokenizer, i) for i in ids]
        return json_response(found)

    return await asyncio.to_thread(response)


async def detokenize(request: Request, models: Sequence[Served], limits: Limits) -> Response:
    """`/detokenize`: the text of ids."""
    fields = read_fields(DetokenizeFields, await read_json(request, limits))
    tokenizer = find_model(models, fields.model).run.tokenizer
    check_ids(fields.tokens, vocab_size=tokenizer.vocab_size, param="tokens")
    return json_response({"prompt": await asyncio.to_thread(tokenizer.decode, fields.tokens)})


async def distribute(request: Request, models: Sequence[Served], limits: Limits) -> Response:
    """`/distribution`: what may follow a prompt, before and after all options."""
    fields = read_fields(DistributionFields, await read_json(request, limits))
    served = find_model(models, fields.model)
    sampling, ids = fields.sampling(), await ids_of(served, fields.prompt, param="prompt")
    check_options(served, sampling)
    if len(ids) > served.context_length:
        said = f"the prompt has {len(ids):,} tokens and the model sees {served.context_length:,}; shorten it"
        raise RequestError(400, said, param="prompt", code="context_length_exceeded")
    future = served.engine.compute(lambda: next_tokens(served.run, ids, sampling, fields.top or _TOP))
    found = await unless_gone(request.receive, _result(future), limit_s=limits.request_s)
    tokens = [{**token, "text": token_text(served.run.tokenizer, token["id"])} for token in found["tokens"]]
    return json_response({"model": served.name, "prompt_tokens": len(ids), **found, "tokens": tokens})


async def _result(future: Any) -> Any:
    return await asyncio.wrap_future(future)


def health(models: Sequence[Served]) -> Response:
    """`/health`: 503 where a model's thread has ended."""
    dead = [served.name for served in models if not served.engine.is_alive]
    found = {"status": "failed" if dead else "ok", "models": [served.name for served in models], "version": __version__}
    if dead:
        return json_response({**found, "failed": dead}, status=503)
    return json_response(found)


def metrics(models: Sequence[Served], http: HttpCounts) -> Response:
    """`/metrics`, for Prometheus."""
    lines = [*_model_lines(models), *http.lines()]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _model_lines(models: Sequence[Served]) -> Iterator[str]:
    yield from head("smalllm_build_info", "gauge", "1, with what the server is made of.")
    yield sample("smalllm_build_info", {"version": __version__, "torch": str(torch.__version__)}, 1)
    yield from head("smalllm_model_info", "gauge", "1 for each model whose engine runs, else 0.")
    for served in models:
        labels = {"model": served.name, "precision": served.precision, "backend": served.engine.backend}
        yield sample("smalllm_model_info", labels, int(served.engine.is_alive))
    numbers = {
        ("smalllm_tokens_generated_total", "counter", "Tokens written."): lambda e: e.counts.n_generated,
        ("smalllm_tokens_read_total", "counter", "Tokens of prompts."): lambda e: e.counts.n_read,
        ("smalllm_steps_failed_total", "counter", "Steps that an error ended."): lambda e: e.counts.n_failed,
        ("smalllm_sequences_active", "gauge", "Sequences that are being written."): lambda e: e.n_active,
        ("smalllm_sequences_waiting", "gauge", "Sequences and prompts that wait."): lambda e: e.n_waiting,
    }
    for (name, kind, text), value in numbers.items():
        yield from head(name, kind, text)
        for served in models:
            yield sample(name, {"model": served.name}, value(served.engine))
    name = "smalllm_time_to_first_token_seconds"
    yield from head(name, "histogram", "From a request in the queue to its first token.")
    for served in models:
        yield from served.engine.counts.first_token_s.lines(name, {"model": served.name})
    name = "smalllm_request_tokens_per_second"
    yield from head(name, "histogram", "Tokens of a request after its first, over their time.")
    for served in models:
        yield from served.engine.counts.tokens_per_second.lines(name, {"model": served.name})
