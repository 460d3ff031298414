"""The measurement of training runs whole on a tiny shape, and its numbers fit together."""

import json
import sys
from pathlib import Path

import pytest

from run_helpers import tiny_config
from smalllm import cli
from smalllm.api.bench_train import bench_train
from smalllm.api.trial import Contestant, started
from smalllm.errors import ConfigError, InteropError, RunError
from smalllm.model.count import flops_per_token
from smalllm.recipes import override

WORDS = ["--model.n_layers", "1", "--model.d_model", "32", "--model.n_heads", "2", "--model.context_length", "16"]
SMALL = [*WORDS, "--train.tokens_per_step", "64", "--train.compile", "false", "--train.threads", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smalllm.runtime._MATMUL_SIZE", 128)


def test_a_rate_is_that_of_its_rounds(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    found = bench_train(config, rounds=3)
    assert list(found.rates) == ["smalllm, fp32, eager"]
    rate = found.rates["smalllm, fp32, eager"]
    assert rate.ratio == 1 and len(rate.rounds) == len(found.matmul_flops) == 3
    assert rate.tokens_per_second == sorted(rate.rounds)[1]
    assert found.tokens_per_update == 128 and found.micro_batch_size == 4 and found.threads == 1
    assert found.flops_per_token == flops_per_token(config.model, vocab_size=257)
    shares = [found.flops_per_token * r / m for r, m in zip(rate.rounds, found.matmul_flops, strict=True)]
    assert rate.matmul_share == sorted(shares)[1]
    assert rate.mfu == pytest.approx(found.flops_per_token * rate.tokens_per_second / max(found.matmul_flops))
    assert 50e6 < rate.peak_memory_bytes < 2e9


def test_the_process_of_a_contestant_counts_its_own_memory_only(tmp_path: Path) -> None:
    ballast = bytearray(b"1") * 800_000_000  # held by this process, which starts the other
    config = override(tiny_config(tmp_path), {"model.dropout": 0.0})
    (rate,) = bench_train(config, rounds=1, one_micro_batch=True).rates.values()
    assert rate.peak_memory_bytes < 800e6 < len(ballast) + 1


def test_transformers_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    words = ["bench", "train", "shakespeare", *SMALL, "--train.precision", "bf16", "--rounds", "1", "--one_micro_batch"]
    assert cli.main([*words, "--against", "transformers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["smalllm, bf16, eager", "transformers, fp32, eager", "transformers, bf16, eager"]
    assert list(found["rates"]) == names and found["dropout"] == 0.2
    for rate in found["rates"].values():
        assert rate["ratio"] == pytest.approx(found["rates"][names[0]]["rounds"][0] / rate["rounds"][0])
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "smalllm, bf16, eager" in shown and "of product" in shown and "updates of 64 tokens" in shown


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        bench_train(config, rounds=0)
    with pytest.raises(InteropError, match="no stock class"):
        bench_train(override(config, {"model.norm": "rmsnorm"}), against="transformers")
    with pytest.raises(ConfigError, match="how many token ids"):
        bench_train(override(config, {"tokenizer.kind": "huggingface"}))
    assert cli.main(["bench", "train"]) == 2 and "no recipe was given" in capsys.readouterr().err
    assert cli.main(["bench", "train", "stories", "--rounds", "0"]) == 2


def test_a_contestant_that_fails_says_why(tmp_path: Path) -> None:
    config = override(tiny_config(tmp_path), {"model.d_model": 2_000_000_000, "model.d_head": 2})
    with pytest.raises(RunError, match=r"smalllm, fp32, eager: ended with status 1: .*"):
        bench_train(config, rounds=1)


def test_a_contestant_that_ends_while_it_waits_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not a broken pipe, which the command line takes for a reader that has seen enough."""
    program = tmp_path / "answers-once"
    program.write_text("#!/bin/sh\nread request\necho '{}'\necho went away >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    contestant = Contestant(library="smalllm", precision="fp32", compile=False)
    with (
        pytest.raises(RunError, match="smalllm, fp32, eager: ended with status 0: went away"),
        started(tiny_config(tmp_path), 257, 1, contestant) as child,
    ):
        child._process.wait()
        child.ask(1)
