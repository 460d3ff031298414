"""The report served while a run trains: news, only to this machine, and bounded."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from report_helpers import browse, needs_chromium, train_row, write_full_run
from smalllm import cli
from smalllm.errors import RunError
from smalllm.reporting import watch
from smalllm.reporting.watch import Snapshot
from smalllm.rundir import RunDir, append_jsonl

Answer = tuple[int, dict[str, str], bytes]


def ask(port: int, path: str = "/", **headers: str) -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_full_run(tmp_path)


@pytest.fixture
def served(run: RunDir) -> Iterator[tuple[RunDir, int]]:
    """A run, watched by another process, and the port."""
    words = [sys.executable, "-m", "smalllm", "report", str(run.path), "--watch", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
    assert address, process.stderr.read()
    yield run, int(address[1])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in said and "stopped" in said


def test_the_page_is_served_with_news(served: tuple[RunDir, int]) -> None:
    run, port = served
    status, headers, page = ask(port)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"data-every=4" in page and b"connect-src 'self'" in page and headers["X-Frame-Options"] == "DENY"
    assert ask(port, If_None_Match=headers["ETag"])[0] == 304
    append_jsonl(run.metrics, train_row(101, loss=1.2345))
    for _ in range(100):
        status, _, page = ask(port, If_None_Match=headers["ETag"])
        if status == 200:
            break
        time.sleep(0.1)
    assert status == 200 and b"1.2345" in page
    status, headers, twin = ask(port, "/report.json")
    assert status == 200 and json.loads(twin)["runs"][0]["train"]["loss"][-1] == 1.2345
    assert not run.report.exists() and not run.plots.exists()  # what watches writes nothing
    # a page of elsewhere whose name leads here, a path of the disk, another verb, half a request
    assert ask(port, Host="evil.example")[0] == 403 and ask(port, "/../config.toml")[0] == 404
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"GET / HTT")
        assert ask(port, Host=f"localhost:{port}")[0] == 200
    run.metrics.write_text("no json\n{}\n")
    for _ in range(100):
        status, _, said = ask(port)
        if status == 500:
            break
        time.sleep(0.1)
    assert status == 500 and b"metrics.jsonl:1" in said


def test_files_are_read_again_only_when_they_changed(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot([run])
    first = snapshot.get()
    assert snapshot.get() == first
    append_jsonl(run.metrics, train_row(101))
    monkeypatch.setattr(snapshot, "_next_s", time.monotonic() + 1000)  # reading took long: not so soon again
    assert snapshot.get() == first
    monkeypatch.setattr(snapshot, "_next_s", 0.0)
    assert snapshot.get()[0] != first[0]


def test_a_taken_port_is_an_error_that_says_what_to_do(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["report", str(run.path), "--watch", "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err
    assert cli.main(["report", str(run.path), "--watch", "--port", "70000"]) == 1
    assert "--port 0" in capsys.readouterr().err


def test_watching_what_is_no_run(tmp_path: Path, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="no such run"):
        watch([RunDir(tmp_path / "nothing")], port=0, started=print)
    assert cli.main(["report", str(run.path), "--watch", "--out", str(tmp_path)]) == 2
    assert "leave out --out or --watch" in capsys.readouterr().err
    assert cli.main(["report"]) == 2 and "smalllm report RUN" in capsys.readouterr().err


@pytest.mark.browser
@needs_chromium
def test_the_served_page_asks_for_news_without_complaint(served: tuple[RunDir, int], tmp_path: Path) -> None:
    elements, complaints = browse(f"http://127.0.0.1:{served[1]}/", tmp_path / "profile")
    assert complaints == "" and "Live: asked at " in elements and elements.count("<figure") == 7
