"""The measurement of encoding runs whole on a little text, for every tokenizer, and its numbers fit together."""

import json
import os
from pathlib import Path

import pytest

from hub_helpers import serve_hub
from run_helpers import make_text
from smalllm import cli
from smalllm.api.bench_tokenize import BASELINE, bench_tokenize
from smalllm.config import TokenizerConfig
from smalllm.errors import ConfigError
from smalllm.tokenizers import save_tokenizer
from smalllm.tokenizers.huggingface import train_huggingface


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("<>".join(make_text(40_000, seed=i) for i in range(60)))


@pytest.mark.parametrize(("kind", "vocab_size"), [("bytes", None), ("huggingface", 270), ("sentencepiece", 280)])
def test_every_way_is_measured_in_each_round(kind: str, vocab_size: int | None) -> None:
    before = dict(os.environ)
    asked = TokenizerConfig(kind=kind, vocab_size=vocab_size)  # type: ignore[arg-type]
    found = bench_tokenize(["a.txt"], tokenizer=asked, separator="<>", megabytes=0.2, rounds=2, n_workers=2)
    assert found.tokenizer == kind and found.n_workers == 2 and 200_000 <= found.text_bytes < 250_000
    assert next(iter(found.rates)) == BASELINE and len(found.rates) == 5
    for rate in found.rates.values():
        assert len(rate.rounds) == 2 and min(rate.rounds) <= rate.mb_per_second <= max(rate.rounds) and rate.ratio > 0
    assert found.rates[BASELINE].ratio == 1
    assert dict(os.environ) == before and sorted(map(str, Path().iterdir())) == ["a.txt"]


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "tokenize", "a.txt", "--tokenizer.kind", "bytes", "--separator", "<>", "--megabytes", "0.1"]
    assert cli.main([*words, "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "bytes tokenizer, 3 documents, 0.1 MB of text, 1 rounds" in shown
    assert "library, 1 thread" in shown and "prepare, " in shown and " MB/s" in shown
    assert cli.main([*words, "--rounds", "1", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_workers"] == 1 and found["rates"]["prepare, 1 processes"]["mb_per_second"] > 0


def test_without_files_it_reads_the_python_library(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tokenizer.kind", "bytes", "--megabytes", "0.3", "--rounds", "1"]
    assert cli.main(["bench", "tokenize", *words]) == 0
    assert "0.3 MB of text" in capsys.readouterr().out


def test_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench"]) == 2 and "say what to measure: tokenize" in capsys.readouterr().err
    assert cli.main(["bench", "trains"]) == 2 and "smalllm bench trains" in capsys.readouterr().err
    assert cli.main(["bench", "tokenize", "a.txt", "--rounds", "0"]) == 2
    with pytest.raises(ConfigError, match="each must be positive"):
        bench_tokenize(["a.txt"], tokenizer=TokenizerConfig(kind="bytes"), megabytes=0.0)


def test_a_tokenizer_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(train_huggingface(Path("a.txt").read_text().split("<>"), vocab_size=270), tmp_path / "gpt")
    asked = TokenizerConfig(kind="huggingface", path="someone/gpt")
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.sets["someone/gpt"] = tmp_path / "gpt"
        assert bench_tokenize(["a.txt"], tokenizer=asked, separator="<>", megabytes=0.01, rounds=1, n_workers=1).rates
