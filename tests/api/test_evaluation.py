"""`evaluate` on text, with overlapping windows and in tasks; tasks while training."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import smalllm
from run_helpers import prepared_config
from smalllm import cli
from smalllm.api.harness import _continue
from smalllm.api.scores import read_blocks
from smalllm.cli.progress import LineProgress
from smalllm.config import RunConfig
from smalllm.data.manifest import read_manifest
from smalllm.data.shards import open_split
from smalllm.data.stories import parse, stories
from smalllm.errors import CheckpointError, ConfigError, DataError
from smalllm.evaluation.harness import Wish, cut_at
from smalllm.generation.sampling import SamplingConfig
from smalllm.recipes import override
from smalllm.run import load_run
from smalllm.rundir import RunDir, read_json, read_jsonl

BLIMP = [
    {"sentence_good": good, "sentence_bad": bad, "UID": name}
    for name, good, bad in (
        ("a", "cat", "caq"), ("a", "the", "tha"), ("a", "home", "hame"), ("b", "and", "ant"), ("b", "old", "xxx"),
    )
]  # fmt: skip


@dataclass(frozen=True)
class Finished:
    config: RunConfig
    out: Path
    blimp: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that scored a task on two of its pairs every fifth step."""
    folder = tmp_path_factory.mktemp("run")
    blimp = folder / "blimp.jsonl"
    blimp.write_text("".join(json.dumps(record) + "\n" for record in BLIMP))
    tasks = {"eval.tasks": (f"blimp={blimp}",), "eval.tasks_every": 5, "eval.task_examples": 2}
    config = prepared_config(folder, {**tasks, "train.max_steps": 12, "optim.lr": 3e-3})
    smalllm.train(config, out=folder / "run")
    return Finished(config, folder / "run", blimp)


def test_continuations_that_tasks_ask_for_are_those_of_each_alone(finished: Finished) -> None:
    run = smalllm.load_run(finished.out, device="cpu", precision="fp32")
    sampled = Wish("The hen", 8, ("e", "zz"), 1.0, 0.9)
    wishes = [Wish("The cat", 7, (), 0.0, 1.0), *[sampled] * 3, Wish("", 99, (" ",), 0.0, 1.0)]
    texts = _continue(run, wishes)
    for number, (wish, text) in enumerate(zip(wishes, texts, strict=True)):
        sampling = SamplingConfig(temperature=wish.temperature, top_p=wish.top_p, max_tokens=wish.n_tokens)
        alone = smalllm.generate(run, wish.prompt, sampling=sampling, n=number + 1)[number]
        assert cut_at(text, wish.until) == cut_at(alone.text, wish.until)
    assert len(set(texts[1:4])) == 3  # the seeds differ


def test_tokens_are_counted_in_large_pieces(finished: Finished) -> None:
    data = Path(finished.config.data.path or "")
    stream = open_split(data, read_manifest(data), "train")
    assert stream.n_tokens > 10_000
    assert [len(block) for block in read_blocks(stream)] == [stream.n_tokens]


@torch.no_grad()
def byte_nats(finished: Finished, text: str, *, stride: int) -> list[float]:
    """-ln p of every byte by hand: a pass a window, over the end token and the text."""
    run = smalllm.load_run(finished.out)
    ids, length = [256, *text.encode()], run.config.model.context_length
    nats: list[float] = []
    while len(nats) < len(ids) - 1:
        stop = min(len(nats) + (stride if nats else length), len(ids) - 1)
        start = max(0, stop - length)
        log_probs = run.model(torch.tensor([ids[start:stop]])).log_softmax(-1)[0]
        nats += [-float(log_probs[i - start, ids[i + 1]]) for i in range(len(nats), stop)]
    return nats


@pytest.mark.parametrize("stride", [None, 4])
def test_bits_per_byte_of_a_text_by_hand(finished: Finished, tmp_path: Path, stride: int | None) -> None:
    text = "the old cat saw a dog.\r\n\nÉté: 5 € and then home to bed\t🐈 the end\n"
    (tmp_path / "text.txt").write_bytes(text.encode())
    found = smalllm.evaluate(finished.out, text=tmp_path / "text.txt", stride=stride)["results"]["loss"]
    nats = byte_nats(finished, text, stride=stride or 16)
    n_bytes = len(text.encode())
    assert abs(found["bits_per_byte"] - sum(nats) / n_bytes / math.log(2)) < 1e-6
    assert abs(found["loss"] - sum(nats) / n_bytes) < 1e-6  # a byte is a token here, and no end token is scored
    assert found["scored_bytes"] == found["scored_tokens"] == n_bytes != len(text)
    assert found["unigram"]["loss"] > 0
    assert sum(b["tokens"] for b in found["by_frequency"]) == n_bytes
    assert {b["to"] for b in found["by_position"]} == {1, 2, 4, 8, 16}
    some = smalllm.evaluate(finished.out, text=tmp_path / "text.txt", stride=stride, tokens=20)["results"]["loss"]
    assert (some["scored_tokens"] == 20 and abs(some["loss"] - sum(nats[:20]) / 20) < 1e-6) or stride is None


def test_a_folder_of_documents_each_from_its_start(finished: Finished, tmp_path: Path) -> None:
    texts = ["the cat", "a dog saw the old hen and then ran home to bed", "Été"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:2]))
    (tmp_path / "t/b.txt").write_text(texts[2])
    found = smalllm.evaluate(finished.out, text=tmp_path / "t")["results"]["loss"]
    nats = [sum(byte_nats(finished, text, stride=16)) for text in texts]
    assert found["scored_bytes"] == sum(len(text.encode()) for text in texts)
    assert abs(found["bits_per_byte"] - sum(nats) / found["scored_bytes"] / math.log(2)) < 1e-6
    assert found["loss_stderr"] > 0


def test_documents_are_found_as_those_of_the_run_s_own_text_were(finished: Finished, tmp_path: Path) -> None:
    run, texts = load_run(finished.out), ["the cat", "a dog saw the old hen"]
    ours = replace(run, config=override(run.config, {"data.separator": "|", "data.text_column": "body"}))
    (tmp_path / "a.txt").write_text("|".join(texts))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    found = [smalllm.evaluate(ours, text=tmp_path / name)["results"]["loss"] for name in ("a.txt", "b.jsonl")]
    assert found[0] == found[1] and found[0]["scored_bytes"] == sum(map(len, texts))
    assert smalllm.evaluate(run, text=tmp_path / "a.txt")["results"]["loss"]["scored_bytes"] == len("|".join(texts))


def test_text_without_the_runs_data_has_no_unigram_to_compare_with(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the cat saw the dog")
    here = smalllm.evaluate(finished.out, text=tmp_path / "text.txt")["results"]["loss"]
    data = Path(str(finished.config.data.path))
    data.rename(data.parent / "aside")
    try:
        there = smalllm.evaluate(finished.out, text=tmp_path / "text.txt")["results"]["loss"]
    finally:
        (data.parent / "aside").rename(data)
    assert set(here) - set(there) == {"unigram"} and here["loss"] == there["loss"]
    assert {b["from"] for b in there["by_frequency"]} == {1}  # how often in the text itself


def test_overlapping_windows_of_the_split(finished: Finished) -> None:
    apart = smalllm.evaluate(finished.out)["results"]["loss"]
    sliding = smalllm.evaluate(finished.out, stride=4)["results"]["loss"]
    whole = smalllm.evaluate(finished.out, stride=16)["results"]["loss"]
    assert 0 <= whole["scored_tokens"] - apart["scored_tokens"] < 16  # the tail too
    assert whole["loss"] == pytest.approx(apart["loss"], rel=0.01)
    assert sliding["scored_tokens"] == whole["scored_tokens"] and sliding["loss"] != whole["loss"]
    shares = {b["from"]: b["tokens"] / sliding["scored_tokens"] for b in sliding["by_position"]}
    assert shares[9] > 0.95  # nearly all with twelve tokens of context or more
    with pytest.raises(ConfigError, match="stride = 17: must be from 1 to the context length, 16"):
        smalllm.evaluate(finished.out, stride=17)


def test_the_grammar_itself_scores_its_entropy(tmp_path: Path) -> None:
    """-log2 p of whole stories by their grammar over their bytes, against the floor that a run reports."""
    changes = {
        "data.source": "stories", "data.files": (), "data.stories": 120, "model.context_length": 1536,
        "train.max_steps": 1, "train.tokens_per_step": 6144, "train.micro_batch_size": 4, "eval.final_tokens": 3000,
    }  # fmt: skip
    config = prepared_config(tmp_path, changes)
    smalllm.train(config, out=tmp_path / "run")
    floor = smalllm.evaluate(tmp_path / "run")["results"]["loss"]["floor"]
    ids = np.fromfile(tmp_path / "data/val-00000.bin", dtype=np.uint16).tolist()
    texts = bytes(255 if i == 256 else i for i in ids).split(b"\xff")[:-1]
    told = {story.text: story.log_prob for story in stories(2024, 120)}
    bits = -sum(told[text.decode()] for text in texts) / math.log(2)
    assert abs(floor["bits_per_byte"] - bits / sum(map(len, texts))) < 1e-6
    assert floor["bits_per_byte"] == pytest.approx(
        sum(parse(t.decode()).log_prob for t in texts) / -math.log(2) / sum(map(len, texts))
    )
    with pytest.raises(ConfigError, match="scored whole here"):
        smalllm.evaluate(tmp_path / "run", stride=4)


# --- tasks


def test_tasks_while_training_and_at_the_end(finished: Finished) -> None:
    run = RunDir(finished.out)
    rows = [row for row in read_jsonl(run.metrics) if row["split"] == "task"]
    assert [(row["step"], row["task"], row["n"]) for row in rows] == [(5, "blimp", 2), (10, "blimp", 2)]
    assert set(rows[0]) == {
        "split", "step", "tokens", "elapsed_s", "task", "n", "acc", "acc_stderr", "chance", "ties"
    }  # fmt: skip
    (task,) = read_json(run.result)["tasks"].values()
    assert task["n"] == 5 and set(task["sets"]) == {"a", "b"}
    scored = smalllm.evaluate(finished.out, tasks=[f"blimp={finished.blimp}"])["results"]
    assert scored == {"blimp": task}
    some = smalllm.evaluate(finished.out, tasks=[f"blimp={finished.blimp}", "loss"], examples=3)["results"]
    assert some["blimp"]["n"] == 3 and "loss" in some


def test_a_task_that_is_not_there_stops_a_run_before_it_begins(finished: Finished, tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"eval.tasks": (f"piqa={tmp_path}/no.jsonl",)})
    with pytest.raises(DataError, match=r"piqa=.*no.jsonl: no such file or folder here; fetch https://huggingface.co"):
        smalllm.train(config, out=tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()
    wrong = override(config, {"eval.tasks": ("lambda", "piqa", "piqa=x"), "eval.tasks_every": -1})
    with pytest.raises(ConfigError) as found:
        smalllm.train(wrong, out=tmp_path / "run")
    assert [p.split(":")[0] for p in found.value.problems] == [
        "eval.tasks_every = -1", "eval.tasks has 'lambda'", "eval.tasks has piqa twice"
    ]  # fmt: skip
    assert 'did you mean "lambada"?' in str(found.value)


def test_what_is_shown(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(finished.out), "--tasks", f"loss,blimp={finished.blimp}"]) == 0
    shown = capsys.readouterr()
    assert "blimp: 5 scored" in shown.out and "acc_" not in shown.out and "chance" in shown.out
    assert "among the likeliest five" in shown.out and "by context     1: " in shown.out
    assert cli.main(["evaluate", str(finished.out), "--tasks", f"blimp={finished.blimp}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["blimp"]["chance"] == 0.5
    row = next(row for row in read_jsonl(finished.out / "metrics.jsonl") if row["split"] == "task")
    LineProgress().row(row)
    assert "step 5: blimp acc " in capsys.readouterr().err
    page = (finished.out / "report.html").read_text()
    assert "<h3>Tasks</h3>" in page and "<td>blimp</td><td>acc</td>" in page and "{&#x27;a&#x27;" not in page


def test_text_that_cannot_be_scored(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="empty"):
        smalllm.evaluate(finished.out, text=tmp_path / "empty.txt")
    with pytest.raises(DataError, match="UTF-8"):
        smalllm.evaluate(finished.out, text=tmp_path / "latin.txt")
    with pytest.raises(DataError, match=r"no\.txt"):
        smalllm.evaluate(finished.out, text=tmp_path / "no.txt")
    with pytest.raises(CheckpointError, match="checkpoint"):
        smalllm.evaluate(tmp_path, tasks=["blimp"])


def test_the_harness_says_how_to_install_it(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'smalllm\[lm-eval\]'"):
        smalllm.evaluate(finished.out, tasks=["lm-eval:hellaswag"])
