"""Who may ask, where the server listens, how it starts and how it ends."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalllm
from serving_helpers import ENDLESS, PATIENCE_S, Running, running, until
from smalllm import cli
from smalllm.errors import ConfigError, RunError
from smalllm.serving.app import FREE
from smalllm.serving.server import check_token, is_loopback, open_port

TOKEN = "s3cret-of-this-test"


@pytest.fixture(scope="module")
def closed(tiny_run: Path) -> Iterator[Running]:
    """A server with a token."""
    with running([tiny_run], token=TOKEN) as server:
        yield server


def paths_of(web: Running) -> list[tuple[str, str]]:
    """Every method and path that the app has."""
    found = []
    for route in web.server.app.routes:
        for method in getattr(route, "methods", None) or ():
            found.append((method, re.sub(r"\{.*?\}", "tiny", route.path)))  # type: ignore[attr-defined]
    return sorted(found)


def test_every_route_but_health_and_the_page_needs_the_token(closed: Running) -> None:
    routes = paths_of(closed)
    assert {"/v1/completions", "/metrics", "/v1/models/tiny", "/openapi.json", "/distribution", *FREE} <= {
        path for _, path in routes
    }
    for method, path in [*routes, ("GET", "/nothing"), ("POST", "/health/"), ("GET", "//health"), ("GET", "/web/x")]:
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            answer = closed.ask(path, method=method, **given)
            if path in FREE:
                assert answer.status == 200, (method, path)
            else:
                assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer", (method, path)
                assert method == "HEAD" or answer.error["code"] == "invalid_api_key"
        good = closed.ask(path, method=method, Authorization=f"Bearer {TOKEN}")
        assert good.status != 401 and good.status < 500


def test_a_token_makes_hosts_and_origins_free(closed: Running) -> None:
    given = {"Authorization": f"Bearer {TOKEN}", "Host": "llm.example.org", "Origin": "https://llm.example.org"}
    assert closed.ask("/v1/models", **given).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:8000"])
def test_this_machine_may_ask(host: str, web: Running) -> None:
    assert web.ask("/v1/models", Host=host).status == 200
    assert web.ask("/v1/models", Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil"},
        {"Host": ""},
        {"Host": "localhost", "Origin": "https://evil.example"},
        {"Host": "localhost:8000", "Origin": "http://localhost:9000"},
        {"Host": "localhost", "Origin": "null"},
    ],
)
def test_pages_of_elsewhere_may_not(headers: dict[str, str], web: Running) -> None:
    for path in ("/v1/models", "/health", "/"):
        answer = web.ask(path, **headers)
        assert answer.status == 403 and answer.error["type"] == "permission_error"
    assert web.ask("/v1/completions", {"prompt": "a"}, **headers).status == 403


def test_the_page_is_served_strictly(web: Running) -> None:
    kinds = {"/": "text/html", "/playground.js": "text/javascript", "/style.css": "text/css"}
    for path, kind in kinds.items():
        answer = web.ask(path)
        assert answer.status == 200 and answer.headers["content-type"] == f"{kind}; charset=utf-8" and answer.body
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"<script>" not in answer.body and b"style=" not in answer.body
        assert "access-control-allow-origin" not in answer.headers
    for path in ("/index.html", "/../server.py", "/web/index.html", "/%2e%2e/server.py", "/__init__.py"):
        assert web.ask(path).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/completions"), ("DELETE", "/v1/models"), ("POST", "/health"), ("OPTIONS", "/tokenize"), ("PUT", "/")],
)
def test_another_method_is_refused(method: str, path: str, web: Running) -> None:
    answer = web.ask(path, method=method)
    assert answer.status == 405 and method in answer.error["message"] and answer.headers["allow"]


def test_the_log_has_a_line_for_each_request(web: Running) -> None:
    web.ask("/nothing%0Ahere%1b[31m")
    pattern = r"\d\d:\d\d:\d\d GET /nothing%0Ahere%1b\[31m 404 \d+\.\d{3} s"
    until(lambda: re.fullmatch(pattern, web.lines[-1]) is not None)


# --- where it listens


def test_an_open_address_needs_a_token() -> None:
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: other machines could use .* SMALLLM_TOKEN=\$\(openssl"):
        open_port("0.0.0.0", 0, has_token=False)
    with pytest.raises(ConfigError, match="other machines"):
        open_port("::", 0, has_token=False)
    with open_port("0.0.0.0", 0, has_token=True) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    with open_port("localhost", 0, has_token=False) as listener:
        assert is_loopback(listener.getsockname()[0])
        assert listener.proto == socket.IPPROTO_TCP  # else every small answer waits 40 ms for an acknowledgement
    assert is_loopback("127.9.9.9") and not is_loopback("192.168.0.1")


@pytest.mark.parametrize("token", ["", "two words", "ä", "line\n"])
def test_what_cannot_be_a_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        check_token(token)


def test_a_taken_port_is_told() -> None:
    with open_port("127.0.0.1", 0, has_token=False) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port}: cannot be used .*--port 0"):
            open_port("127.0.0.1", port, has_token=False)
    with pytest.raises(ConfigError, match="--host no such host"):
        open_port("no such host", 0, has_token=False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no run was given"),
        (["{run}", "--host", "0.0.0.0"], 2, "SMALLLM_TOKEN"),
        (["{run}", "--port", "70000"], 2, "65535"),
        (["{run}", "--port", "{taken}"], 1, "cannot be used"),
        (["{run}", "--port", "0", "--token", "a b"], 2, "openssl"),
        (["{run}", "--port", "0", "--slots", "0"], 2, "--slots 0: must be at least 1"),
        (["{run}", "--port", "0", "--precision", "fp8"], 2, "fp8"),
        (["{run}/nothing", "--port", "0"], 1, "nothing"),
        (["{run}/..", "--port", "0"], 1, "checkpoint"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], code: int, said: str, tiny_run: Path, web: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = cli.main(["serve", *(word.format(run=tiny_run, taken=web.port) for word in words)])
    except SystemExit as stop:
        found = int(stop.code or 0)
    shown = capsys.readouterr()
    assert found == code and said in shown.err and "Traceback" not in shown.err and not shown.out


# --- start and end


@contextlib.contextmanager
def command(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`smalllm serve` as a process, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smalllm", "serve", *map(str, words), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
        assert address, process.stderr.read()
        yield process, int(address[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_command_well(number: int, tiny_run: Path) -> None:
    with command(tiny_run, "--precision", "fp32") as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            body = json.dumps({**ENDLESS, "stream": True}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert b"200 OK" in connection.recv(65_536)
            start_s = time.monotonic()
            process.send_signal(number)
            found = b""
            while piece := connection.recv(1 << 20):
                found = (found + piece)[-2_000:]
        assert b'"code":"shutting_down"' in found and b"[DONE]" in found
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0 and time.monotonic() - start_s < 10
    assert "Traceback" not in said and said.endswith("stopped\n") and "curl http://127.0.0.1" in said
    assert "/v1/completions 200" in said


def test_serve_is_a_function_too(tiny_run: Path) -> None:
    assert smalllm.serve.__module__ == "smalllm.serving.server"
    with pytest.raises(ConfigError, match="no run"):
        smalllm.serve()
