"""Clients that mean harm, over plain sockets: they are answered or cut in bounded time and memory, and others go on."""

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_helpers import ENDLESS, Running, raw_request, receive_all, running, until
from smalllm.serving import Limits

QUICK = Limits(head_s=0.6, body_s=0.6, idle_s=1.0, write_s=0.6, connections=6, grace_s=0.2)


@pytest.fixture(scope="module")
def quick(tiny_run: Path) -> Iterator[Running]:
    """A server with little patience."""
    with running([tiny_run], limits=QUICK) as server:
        yield server
        assert server.ask("/health").status == 200


def seconds_until_closed(connection: socket.socket, *, drip: bytes = b"") -> float:
    """How long a connection lives while bytes drip into it."""
    start_s = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - start_s < 10:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(65_536):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - start_s


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),
        (b"GET /health HT", b""),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ", b"a"),
        (b"GET /health HTTP/1.1\r\n", b"A: b\r\n"),
    ],
)
def test_a_head_that_does_not_end_is_cut(first: bytes, drip: bytes, quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(first)
        assert QUICK.head_s - 0.2 < seconds_until_closed(connection, drip=drip) < QUICK.head_s + 1.5


def test_a_slow_head_that_ends_in_time_is_served(quick: Running) -> None:
    with quick.connect() as connection:
        for piece in (b"GET /health HTTP/1.1\r\n", b"Host: 127.0.0.1\r\n", b"Connection: close\r\n", b"\r\n"):
            connection.sendall(piece)
            time.sleep(0.05)
        assert status_of(receive_all(connection)) == 200


def test_a_connection_without_requests_is_closed(quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert status_of(connection.recv(65_536)) == 200
        assert seconds_until_closed(connection) < QUICK.idle_s + 1.5


def test_a_slow_body_is_refused(quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(raw_request(b"", Content_Length="10") + b'{"p')
        assert status_of(receive_all(connection)) == 408


def test_a_long_body_is_refused_before_it_is_read(quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(raw_request(b"", Content_Length="1000000000"))
        answer = receive_all(connection)
    assert status_of(answer) == 413 and b"1,000,000 bytes" in answer


def memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pour(connection: socket.socket, head: bytes, n_bytes: int) -> int:
    """Send a chunked body as long as it is taken; how much that was."""
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    sent = 0
    connection.settimeout(3)
    with contextlib.suppress(OSError):
        connection.sendall(head)
        while sent < n_bytes:
            connection.sendall(piece)
            sent += 65_536
    return sent


@pytest.mark.parametrize("path", ["/v1/completions", "/health", "/nothing", "/tokenize"])
def test_a_body_without_end_fills_no_memory(path: str, quick: Running) -> None:
    before = memory_bytes()
    method = "GET" if path == "/health" else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with quick.connect() as connection:
        sent = pour(connection, head.encode(), 1 << 30)
    assert sent < 1 << 30, "it was read to its end"
    assert memory_bytes() - before < 30 << 20
    until(lambda: not quick.server._uvicorn.server_state.connections)


def test_what_is_never_read_is_cut(quick: Running) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", quick.port))
    fields = {**ENDLESS, "n": 2, "max_tokens": 20_000, "stream": True, "logprobs": 5, "return_token_ids": True}
    connection.sendall(raw_request(json.dumps(fields)))
    engine = quick.models[0].engine
    until(lambda: engine.n_active == 2)
    before = engine.counts.n_generated
    until(quick.is_idle)
    assert engine.counts.n_generated - before < 2 * 20_000  # it was cut, and did not just end
    connection.close()


def test_more_connections_than_allowed_are_told(quick: Running) -> None:
    until(lambda: not quick.server._uvicorn.server_state.connections)
    with contextlib.ExitStack() as stack:
        for _ in range(QUICK.connections):
            stack.enter_context(quick.connect())
        until(lambda: len(quick.server._uvicorn.server_state.connections) == QUICK.connections)
        answer = quick.ask("/health")
        assert answer.status == 503 and answer.headers["retry-after"] == "2" and answer.error["code"] == "overloaded"
    until(lambda: not quick.server._uvicorn.server_state.connections)
    assert quick.ask("/health").status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 403),  # h11 takes it; there is no Host
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 200),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (raw_request(b"zz\r\n", Transfer_Encoding="chunked", Content_Length="5"), 400),
        (raw_request(b"{}", Content_Encoding="gzip"), 415),
    ],
)
def test_what_is_no_good_request_is_told(sent: bytes, status: int, quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = receive_all(connection)
    assert status_of(answer) == status, answer
    if status != 200:
        assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


def test_two_requests_in_one_go_are_both_answered(quick: Running) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with quick.connect() as connection:
        connection.sendall(one + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert receive_all(connection).count(b"200 OK") == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"stop": [' + b'"a",' * 200_000 + b'"a"]}',
        b'{"prompt": ' + b"[" * 300_000 + b"]" * 300_000 + b"}",
        b'{"prompt": [' + b"1," * 400_000 + b"1]}",
        b'{"prompt": "' + b"a" * 900_000 + b'"}',
        b"{" + b",".join(b'"%06d":1' % i for i in range(90_000)) + b"}",
        b"{" + b'"a":1,' * 150_000 + b'"a":1}',
        b'{"logit_bias": {' + b",".join(b'"%d":1' % i for i in range(80_000)) + b"}}",
        b'{"seed": ' + b"9" * 900_000 + b"}",
        b'{"temperature": 1e999}',
        b'{"temperature": -Infinity}',
    ],
)
def test_large_and_odd_bodies_are_refused_quickly(body: bytes, quick: Running) -> None:
    start_s = time.monotonic()
    answer = quick.ask("/v1/completions", body)
    assert answer.status == 400 and len(answer.error["message"]) < 1_000
    assert time.monotonic() - start_s < 4
