"""Many requests at once: each gets what it would get alone, its turn, and its end; none can hurt another."""

import asyncio
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_helpers import ENDLESS, PATIENCE_S, Running, raw_request, receive_all, running, until
from smalllm.api.text import open_decoder
from smalllm.generation.sampling import SamplingConfig
from smalllm.run import Run
from smalllm.serving import Limits
from smalllm.serving.engine import Engine
from smalllm.serving.models import serve_run
from smalllm.serving.ticket import Ticket


def mixed_requests() -> list[dict[str, Any]]:
    texts = ["", "The cat", "a", "A dog met the old hen and then ran", "ä€", "The cat"]
    return [
        {
            "prompt": texts[i % len(texts)],
            "max_tokens": 1 + i * 7 % 23,
            "seed": i,
            "n": 1 + i % 3,
            "temperature": (0.0, 0.8, 1.2)[i % 3],
            "top_p": (1.0, 0.9)[i % 2],
            "presence_penalty": (0.0, 0.5)[i % 2],
            "logprobs": (None, 2)[i % 2],
            "echo": i % 4 == 1,
            "return_token_ids": True,
        }
        for i in range(12)
    ]


def test_together_is_the_same_as_one_after_the_other(tiny_run: Path) -> None:
    requests = mixed_requests()
    with running([tiny_run]) as web:
        alone = [web.complete(**fields)["choices"] for fields in requests]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda fields: web.complete(**fields)["choices"], [*requests, *requests[::-1]]))
        until(web.is_idle)
    assert together == [*alone, *alone[::-1]]
    assert len({json.dumps(choices) for choices in alone}) == len(alone)


def start(web: Running, **fields: Any) -> socket.socket:
    """A request that is begun, and not read."""
    connection = web.connect()
    connection.sendall(raw_request(json.dumps({**ENDLESS, **fields})))
    until(lambda: web.models[0].engine.n_active > 0)
    return connection


def test_a_small_request_does_not_wait_for_all_of_a_large_one(tiny_run: Path) -> None:
    with running([tiny_run], slots=2) as web, start(web, max_tokens=60, stream=True) as large:
        found = web.complete(prompt="b", max_tokens=2)
        assert found["usage"]["completion_tokens"] >= 1
        assert web.models[0].engine.n_waiting > 6  # of 16
        assert receive_all_chunks(large).count(b'"finish_reason":"') == 16


def receive_all_chunks(connection: socket.socket) -> bytes:
    """A stream, up to its end."""
    found = b""
    while b"[DONE]" not in found:
        piece = connection.recv(65_536)
        assert piece, "it ended too early"
        found += piece
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_whose_client_has_gone_is_ended(stream: bool, tiny_run: Path) -> None:
    with running([tiny_run]) as web:
        connection = start(web, stream=stream)
        assert web.models[0].engine.n_waiting > 0
        connection.close()
        start_s = time.monotonic()
        until(web.is_idle)
        assert time.monotonic() - start_s < 2
        assert web.complete(prompt="a", max_tokens=2)
        until(lambda: any(" 499 " in line or stream for line in web.lines))


def test_samples_of_one_prompt_are_let_in_together_and_others_when_there_is_room(loaded: Run) -> None:
    decoder = open_decoder(loaded, n_slots=8, prompt_tokens=12)
    engine = Engine(decoder, prompt_tokens=12, most_waiting=99)

    async def of(*prompts: list[int]) -> Ticket:
        return Ticket(
            [(ids, SamplingConfig(max_tokens=999, logit_bias=((256, -100.0),))) for ids in prompts], streams=False
        )

    engine._turns.append(asyncio.run(of([65] * 10, [65] * 10, [65] * 10, [66, 67], [68], [69])))
    engine._enter()
    assert decoder.n_free == 4 and decoder.n_unread() == 12
    while decoder.step() and not decoder.n_unread():  # until some are full, and half of their context is read again
        pass
    engine._enter()
    assert len(decoder.active) == 4 and len(engine._turns) == 1


def test_a_client_who_goes_right_after_a_piece_is_noticed(tiny_run: Path) -> None:
    """Its second sequence waits behind one that does not end, so that no event would tell."""
    with running([tiny_run], slots=1) as web, web.connect() as going, web.connect() as last:
        engine, found = web.models[0].engine, b""
        with start(web, n=1):
            going.sendall(raw_request(json.dumps({**ENDLESS, "n": 2, "max_tokens": 1, "stream": True})))
            until(lambda: engine.n_waiting == 2)
            last.sendall(raw_request(json.dumps({**ENDLESS, "n": 1})))
            until(lambda: engine.n_waiting == 3)
        while b"data:" not in found:
            found += going.recv(65_536)
        going.close()
        until(lambda: engine.n_waiting == 0, seconds=2)
        assert engine.n_active == 1


def test_a_full_queue_is_told(tiny_run: Path) -> None:
    with running([tiny_run], slots=1, limits=Limits(waiting=20, grace_s=0.2)) as web:
        with start(web):
            answer = web.ask("/v1/completions", {"prompt": "a", "n": 8})
            assert answer.status == 503 and answer.headers["retry-after"] == "2"
            assert answer.error["code"] == "overloaded"
            assert web.ask("/v1/completions", {"prompt": ["a"] * 8, "stream": True}).status == 503
            until(lambda: web.models[0].engine.n_waiting == 15)
        until(web.is_idle)
        assert web.complete(prompt="a", n=8)


def test_a_refused_request_leaves_no_prompt_to_be_scored(tiny_run: Path) -> None:
    with running([tiny_run], limits=Limits(waiting=4, grace_s=0.2)) as web:
        engine, go_on = web.models[0].engine, threading.Event()
        until(lambda: engine.is_alive)
        held = engine.compute(lambda: go_on.wait(PATIENCE_S))
        until(held.running)
        answer = web.ask("/v1/completions", {"prompt": ["a"] * 8, "echo": True, "logprobs": 0, "max_tokens": 0})
        assert answer.status == 503 and answer.error["code"] == "overloaded"
        until(lambda: all(future.cancelled() for future, _ in engine._calls), seconds=2)
        go_on.set()
        until(web.is_idle)
        assert web.complete(prompt=["a"] * 4, echo=True, logprobs=0, max_tokens=0)["choices"]


def test_time_has_an_end(tiny_run: Path) -> None:
    with running([tiny_run], limits=Limits(request_s=0.4, grace_s=0.2)) as web:
        answer = web.ask("/v1/completions", ENDLESS)
        assert answer.status == 503 and answer.error["code"] == "time_limit"
        events = web.stream(**ENDLESS)
        assert events[-1]["error"]["code"] == "time_limit" and len(events) > 2
        until(web.is_idle)


class Mine(list[bytes]):
    """Bytes of tokens, one of which can be had `n_good` times."""

    n_good = 0

    def __getitem__(self, index: Any) -> Any:
        if index == ord("!"):
            self.n_good -= 1
            if self.n_good < 0:
                raise RuntimeError("a fault of the tokenizer")
        return super().__getitem__(index)


class Faulty:
    """A tokenizer that fails on one token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.token_bytes = Mine(tokenizer.token_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_an_error_ends_the_requests_it_meets_and_no_others(loaded: Run, caplog: pytest.LogCaptureFixture) -> None:
    model = serve_run(replace(loaded, tokenizer=Faulty(loaded.tokenizer)), name="tiny", n_slots=2)
    quiet = {"logit_bias": {"33": -100.0, "256": -100.0}}
    with running([model]) as web, caplog.at_level(logging.CRITICAL):
        neighbour = start(web, n=1, stream=True, **quiet)
        answer = web.ask("/v1/completions", {"prompt": "a", "logit_bias": {"33": 100.0}})
        assert answer.status == 500 and answer.error["code"] == "failed"
        assert b'"code":"failed"' in receive_all_chunks(neighbour)
        neighbour.close()
        until(web.is_idle)
        assert web.ask("/health").json["status"] == "ok"
        assert web.complete(prompt="a", max_tokens=4, temperature=0, **quiet)["usage"]["completion_tokens"] == 4
        assert b'smalllm_steps_failed_total{model="tiny"} 1' in web.ask("/metrics").body
        events = web.stream(prompt="a", logit_bias={"33": 100.0})
        assert events[-1]["error"]["code"] == "failed"


def test_an_error_beside_a_last_token_does_not_end_the_thread(loaded: Run, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Faulty(loaded.tokenizer)
    tokenizer.token_bytes.n_good = 1  # the first sequence ends well, in the step in which the second fails
    model = serve_run(replace(loaded, tokenizer=tokenizer), name="tiny", n_slots=2)
    with running([model]) as web, caplog.at_level(logging.CRITICAL):
        answer = web.ask("/v1/completions", {"prompt": ["a", "a"], "max_tokens": 1, "logit_bias": {"33": 100.0}})
        assert answer.status == 500 and answer.error["code"] == "failed"
        assert web.ask("/health").json["status"] == "ok" and web.is_idle()
        assert web.complete(prompt="a", max_tokens=1, logit_bias={"33": -100.0})["choices"]


def test_health_tells_when_a_model_has_ended(tiny_run: Path) -> None:
    with running([tiny_run]) as web:
        assert web.ask("/health").status == 200
        web.models[0].engine.close()
        until(lambda: not web.models[0].engine.is_alive)
        answer = web.ask("/health")
        assert answer.status == 503 and answer.json["failed"] == ["tiny"]
        assert web.ask("/v1/completions", {"prompt": "a"}).status == 503
        assert web.ask("/distribution", {"prompt": "a"}).status == 503


def test_the_end_ends_streams_in_order(tiny_run: Path) -> None:
    with running([tiny_run]) as web:
        connection, found = start(web, stream=True), list[bytes]()
        reader = threading.Thread(target=lambda: found.append(receive_all(connection)))
        reader.start()
        until(lambda: web.models[0].engine.counts.n_generated > 10)
        start_s = time.monotonic()
        web.server.stop()
        reader.join(PATIENCE_S)
        assert time.monotonic() - start_s < 5
        assert found[0].endswith(b"0\r\n\r\n") and b"[DONE]" in found[0] and b'"code":"shutting_down"' in found[0]
        connection.close()


def test_two_runs_are_served_by_their_names(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "tiny").symlink_to(tiny_run)
    with running([tiny_run, tmp_path / "x" / "tiny"], slots=1) as web:
        names = [card["id"] for card in web.ask("/v1/models").json["data"]]
        assert len(set(names)) == 2 and all(name.startswith("tiny-step-") for name in names)
        answer = web.ask("/v1/completions", {"prompt": "a"})
        assert answer.status == 400 and all(name in answer.error["message"] for name in names)
        texts = [web.complete(model=name, prompt="a", temperature=0)["choices"][0]["text"] for name in names]
        assert texts[0] == texts[1]
        assert web.ask(f"/v1/models/{names[1]}").json["id"] == names[1]
        assert web.ask("/v1/completions", {"model": "no", "prompt": "a"}).error["code"] == "model_not_found"
