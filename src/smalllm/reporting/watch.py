"""The report of runs that still train, served to this machine's own browser."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

from smalllm.errors import RunError, SmalllmError
from smalllm.reporting.curves import all_curves
from smalllm.reporting.facts import read_facts
from smalllm.reporting.page import page_of
from smalllm.reporting.twin import twin_of
from smalllm.rundir import RunDir

EVERY_S = 4.0
_MAX_REQUESTS = 16  # at one time; more are refused
_TIMEOUT_S = 10.0
_MAX_LOAD = 0.05  # share of one core that reading the runs again may take


class Snapshot:
    """The page and its JSON twin as of the last look at the runs' files, read again only when those have changed."""

    def __init__(self, runs: Sequence[RunDir]) -> None:
        self._runs, self._lock = runs, threading.Lock()
        self._seen: list[tuple[str, int, int]] | None = None
        self._next_s = 0.0
        self._tag, self._page, self._twin = "", b"", b""

    def get(self) -> tuple[str, bytes, bytes]:
        """The tag of this state of the files, the page and the JSON.

        Raises:
            RunError: a run has gone, or its files are damaged.
        """
        with self._lock:
            seen = [fact for run in self._runs for fact in _state_of(run)]
            if seen != self._seen and time.monotonic() >= self._next_s:
                start = time.monotonic()
                facts = [read_facts(run) for run in self._runs]
                curves = all_curves(facts)
                self._page = page_of(facts, curves, every_s=EVERY_S).encode()
                self._twin = twin_of(facts, curves).encode()
                self._seen, self._tag = seen, f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'
                self._next_s = time.monotonic() + (time.monotonic() - start) / _MAX_LOAD
            return self._tag, self._page, self._twin


def watch(runs: Sequence[RunDir], *, port: int, started: Callable[[str], None]) -> None:
    """Serve the page of `runs` on 127.0.0.1 until interrupted; it asks for news by itself.

    Args:
        runs: one run or several.
        port: 0 for any free one.
        started: told the address once it can be opened.

    Raises:
        RunError: a run cannot be read, or the port is taken.
    """
    snapshot = Snapshot(runs)
    snapshot.get()
    try:
        server = _Server(("127.0.0.1", port), _handler(snapshot))
    except (OSError, OverflowError) as error:
        raise RunError(
            f"port {port} cannot be used ({error}); give another with --port, or --port 0 for any free one"
        ) from error
    with server:
        started(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    """Threads for a bounded number of requests at one time."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, *arguments: Any) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__(*arguments)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that goes away in the middle is no news."""


def _handler(snapshot: Snapshot) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version, sys_version = "smalllm", ""

        def do_GET(self) -> None:
            # a page of elsewhere whose name was made to mean this machine must not read the runs
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            if host not in ("127.0.0.1", "localhost"):
                return self.answer(HTTPStatus.FORBIDDEN, b"only 127.0.0.1 and localhost are served here")
            try:
                tag, page, twin = snapshot.get()
            except (SmalllmError, OSError) as error:
                return self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode())
            if self.path == "/report.json":
                return self.answer(HTTPStatus.OK, twin, kind="application/json")
            if self.path != "/":
                return self.answer(HTTPStatus.NOT_FOUND, b"only / and /report.json are here")
            if self.headers.get("If-None-Match") == tag:
                return self.answer(HTTPStatus.NOT_MODIFIED, b"", tag=tag)
            return self.answer(HTTPStatus.OK, page, kind="text/html", tag=tag)

        def answer(self, status: HTTPStatus, body: bytes, *, kind: str = "text/plain", tag: str = "") -> None:
            self.send_response(status)
            headers = {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
                **({"ETag": tag} if tag else {}),
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: the terminal belongs to the one who watches."""

    return Handler


def _state_of(run: RunDir) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that the page is made of; what is not there has none."""
    found = []
    for path in (run.config, run.environment, run.metrics, run.samples, run.result):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return found
