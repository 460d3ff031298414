"""The measurement of scoring runs whole on a tiny run, and its numbers fit together."""

import importlib.util
import json
from pathlib import Path
from statistics import median

import pytest

from run_helpers import prepared_config
from smalllm import cli
from smalllm.api import train
from smalllm.api.bench_evaluate import bench_evaluate
from smalllm.errors import ConfigError

PIQA = [
    {"goal": f"Open door {i}", "sol1": "push the wall", "sol2": "turn the handle " * (i % 4 + 1), "label": i % 2}
    for i in range(20)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    shape = {"model.position": "learned", "model.bias": True, "model.context_length": 64, "train.micro_batch_size": 1}
    config = prepared_config(folder, {**shape, "tokenizer.kind": "huggingface", "tokenizer.vocab_size": 300})
    train(config, out=folder / "run")
    (folder / "piqa.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PIQA))
    page = " ".join(f"The {n} dogs ran home ." for n in range(20))  # not periodic: the peer mixes up equal windows
    (folder / "wikitext.jsonl").write_text(json.dumps({"page": page}) + "\n")
    return folder


def test_a_rate_is_that_of_its_rounds(folder: Path) -> None:
    found = bench_evaluate(folder / "run", f"piqa={folder}/piqa.jsonl", examples=7, rounds=3)
    (rate,) = found.rates.values()
    assert found.task == "piqa" and found.questions == 7 and found.ratio is None and found.precision == "fp32"
    assert rate.ratio == 1 and rate.largest_difference == 0 and rate.questions_per_second == sorted(rate.rounds)[1]


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "evaluate", str(folder / "run"), "--tasks", f"piqa={folder}/piqa.jsonl", "--rounds", "1"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["rates"]) == ["smalllm, fp32"] and found["questions"] == 20
    assert cli.main(words) == 0
    assert "piqa: 20 questions, fp32, 1 rounds" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["piqa", "wikitext"])
def test_against_lm_evaluation_harness(task: str, folder: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs pip install 'smalllm[lm-eval]'")
    found = bench_evaluate(
        folder / "run", f"{task}={folder}/{task}.jsonl", against="lm-eval", batches=("1", "3"), rounds=3, examples=6
    )
    ours, one, three = found.rates.values()
    assert list(found.rates) == ["smalllm, fp32", "lm-eval, batches of 1", "lm-eval, batches of 3"]
    best = [max(pair) for pair in zip(one.rounds, three.rounds, strict=True)]
    assert found.ratio == pytest.approx(median(a / b for a, b in zip(ours.rounds, best, strict=True)))
    assert (
        0 < max(rate.largest_difference for rate in found.rates.values()) < 1e-3
    )  # the same numbers, summed otherwise


def test_what_cannot_be_measured_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = f"piqa={folder}/piqa.jsonl"
    with pytest.raises(ConfigError, match="--rounds 0: must be 1 or more"):
        bench_evaluate(folder / "run", task, rounds=0)
    with pytest.raises(ConfigError, match="--batches 0 x: each must be a whole number from 1, or auto"):
        bench_evaluate(folder / "run", task, batches=("0", "x", "auto", "4"))
    with pytest.raises(ConfigError, match='did you mean "piqa"'):
        bench_evaluate(folder / "run", "pica")
    if importlib.util.find_spec("lm_eval") is None:
        with pytest.raises(ConfigError, match=r"not installed; install it: pip install 'smalllm\[lm-eval\]'"):
            bench_evaluate(folder / "run", task, against="lm-eval")
    assert cli.main(["bench", "evaluate", str(folder / "no")]) == 1
