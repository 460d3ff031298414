"""`smalllm bench serve`: a server as a process, and many clients of it."""

import json
from pathlib import Path

import pytest

from serving_helpers import train_tiny
from smalllm import cli
from smalllm.api.bench_serve import bench_serve
from smalllm.errors import ConfigError, RunError


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"did not start: smalllm serve: .*nothing"):
        bench_serve(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="more than 0"):
        bench_serve(tmp_path, clients=0)


@pytest.mark.slow
def test_many_clients_are_served_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(train_tiny(tmp_path))
    words = ["bench", "serve", run, "--clients", "8", "--seconds", "2", "--prompt-tokens", "20", "--new-tokens", "20"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == 0 and found["requests"] > 20 and found["tokens_per_second"] > 0
    assert found["slowest_to_fastest"] > 0.3 and found["first_token_s"][0] > 0
    assert cli.main([*words[:3], "--new-tokens", "64"]) == 2
    assert "sees 64 together" in capsys.readouterr().err
