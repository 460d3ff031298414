"""A server in a thread on a free port of this machine, and ways to ask it; every wait has an end."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from run_helpers import prepared_config, train_until
from smalllm.serving import Limits, Served, Server, load_models
from smalllm.serving.server import open_port

CONTEXT = 64
SHAPE = {"model.context_length": CONTEXT, "train.max_steps": 5, "train.micro_batch_size": 2}
PATIENCE_S = 15.0
ENDLESS = {
    "prompt": "a",
    "n": 16,
    "max_tokens": 30_000,
    "past_context": "slide",
    "seed": 1,
    "logit_bias": {"256": -100.0},  # the end of a document
}
"""A request that keeps a server busy for longer than any test."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        (error,) = self.json.values()
        assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in error["message"]
        found: dict[str, Any] = error
        return found


class Running(NamedTuple):
    """A server that runs; `slow` is what it does not log."""

    port: int
    server: Server
    models: Sequence[Served]
    lines: list[str]

    def ask(self, path: str, body: Any = None, *, method: str | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; a body that is no bytes goes as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, sent, names)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def complete(self, **fields: Any) -> Any:
        """What a completion says."""
        answer = self.ask("/v1/completions", fields)
        assert answer.status == 200, answer.body
        return answer.json

    def stream(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of a stream."""
        answer = self.ask("/v1/completions", {**fields, "stream": True})
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.body
        events = answer.body.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""] and all(event.startswith("data: ") for event in events[:-1])
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def is_idle(self) -> bool:
        return all(served.engine.n_active == served.engine.n_waiting == 0 for served in self.models)


def train_tiny(folder: Path) -> Path:
    """A run of a byte model, stopped after its first evaluation."""
    train_until(4, prepared_config(folder, SHAPE), folder / "tiny")
    return folder / "tiny"


@contextlib.contextmanager
def running(
    runs: Sequence[Path] | Sequence[Served], *, token: str | None = None, slots: int = 4, limits: Limits | None = None
) -> Iterator[Running]:
    """Serve runs, or models that a test has made, until the test is over."""
    limits = limits or Limits(grace_s=0.2)
    models = [one for one in runs if isinstance(one, Served)]
    paths = [one for one in runs if isinstance(one, Path)]
    models += load_models(paths, precision="fp32", n_slots=slots, most_waiting=limits.waiting)
    listener, lines = open_port("127.0.0.1", 0, has_token=False), list[str]()
    server = Server(models, listener, token=token, limits=limits, log=lines.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Running(listener.getsockname()[1], server, models, lines)
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not end"


def until(condition: Callable[[], bool], *, seconds: float = PATIENCE_S) -> None:
    """Wait for something that must come."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.01)


def receive_all(connection: socket.socket) -> bytes:
    """All that a server sends before it closes; a reset is an end, too."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def raw_request(body: bytes | str, **headers: str) -> bytes:
    """A completion request as bytes."""
    body = body.encode() if isinstance(body, str) else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    lines: Mapping[str, str] = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + body
