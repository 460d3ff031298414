"""What a finished run leaves behind, and what the Python functions give for it."""

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smalllm
from run_helpers import StopAt, make_text, prepared_config, tiny_config, train_until
from smalllm import cli
from smalllm.checkpoint import load_checkpoint
from smalllm.config import RunConfig
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import CheckpointError, ConfigError, DataError, RunError, TokenizerError
from smalllm.generation.sampling import SamplingConfig
from smalllm.model.count import count_parameters
from smalllm.recipes import load_recipe, override, save_config
from smalllm.rundir import RunDir, read_json, read_jsonl

TRAIN_KEYS = (
    "split step tokens elapsed_s loss loss_ema lr grad_norm step_time_s tokens_per_second mfu peak_memory_bytes"
)
MEASURES = ("loss", "perplexity", "bits_per_token", "bits_per_byte", "accuracy")
VAL_KEYS = ("split", "step", "tokens", "elapsed_s", *MEASURES)


@dataclass(frozen=True)
class Finished:
    """A run and what `train` returned for it."""

    config: RunConfig
    out: Path
    result: dict[str, Any]

    @property
    def run(self) -> RunDir:
        return RunDir(self.out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("run")
    # The last evaluation is the best here: the loss of so short a run still falls.
    config = prepared_config(folder, {"eval.sample_prompts": ("the cat", ""), "optim.lr": 3e-3})
    return Finished(config, folder / "run", smalllm.train(config, out=folder / "run"))


def rows(finished: Finished, split: str) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(finished.run.metrics) if row["split"] == split]


def test_rows_have_exactly_the_documented_keys(finished: Finished) -> None:
    assert all(tuple(row) == tuple(TRAIN_KEYS.split()) for row in rows(finished, "train"))
    assert all(tuple(row) == VAL_KEYS for row in rows(finished, "val"))
    assert [row["step"] for row in rows(finished, "train")] == list(range(1, 15))
    assert [row["step"] for row in rows(finished, "val")] == [4, 8, 12, 14]


def test_val_rows_agree_with_themselves(finished: Finished) -> None:
    for row in rows(finished, "val"):
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["bits_per_token"] == pytest.approx(row["loss"] / math.log(2))
        assert 0 <= row["accuracy"] <= 1


def test_result_has_the_documented_keys(finished: Finished) -> None:
    result = read_json(finished.run.result)
    assert result == finished.result
    assert set(result) == {
        "recipe", "parameters", "steps", "tokens", "best_step", "train_time_s", "tokens_per_second", "mfu",
        "peak_memory_bytes", "device", "val", "unigram", "tasks",
    }  # fmt: skip
    assert tuple(result["val"]) == MEASURES and set(result["unigram"]) == {"loss", "bits_per_byte"}
    assert (result["recipe"], result["steps"], result["tokens"]) == ("shakespeare", 14, 14 * 128)
    model = smalllm.load_run(finished.out).model
    padding = (model.token_embedding.weight.shape[0] - 257) * 32
    assert result["parameters"] == sum(p.numel() for p in model.parameters()) - padding
    assert result["parameters"] == count_parameters(finished.config.model, vocab_size=257).total
    assert json.loads(finished.run.result.read_text(), parse_constant=lambda name: pytest.fail(name)) == result


def test_everything_is_there(finished: Finished) -> None:
    names = {p.name for p in finished.out.iterdir()} - {".lock"}
    assert names == {
        "config.toml", "environment.json", "tokenizer", "metrics.jsonl", "checkpoints", "samples.jsonl", "plots",
        "report.html", "report.json", "result.json",
    }  # fmt: skip
    page = finished.run.report.read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "http://" not in page.replace("http://www.w3.org", "")
    assert f"{finished.result['val']['loss']:.2f}" in page
    plots = list(finished.run.plots.glob("*.png"))
    assert plots and all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 1000 for p in plots)
    assert read_json(finished.run.environment)["device_kind"] == "cpu"


def test_samples(finished: Finished) -> None:
    samples = read_jsonl(finished.run.samples)
    assert [(s["step"], s["prompt"]) for s in samples] == [(14, "the cat"), (14, "")]
    assert all(set(s) == {"step", "prompt", "text"} for s in samples)


def test_the_best_checkpoint_has_the_lowest_validation_loss(tmp_path: Path) -> None:
    config = prepared_config(tmp_path, {"optim.lr": 3e-3, "eval.every": 1, "train.max_steps": 40})
    train_until(8, config, tmp_path / "run")
    # At this rate it only gets worse, so that the last is not the best.
    train_until(20, config, tmp_path / "run", resume=True, changes={"optim.lr": 1.0})
    val = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if row["split"] == "val"]
    lowest = min(val, key=lambda row: row["loss"])
    run = smalllm.load_run(tmp_path / "run")
    assert run.state.step == run.state.best_step == lowest["step"] < 20
    assert run.state.best_loss == lowest["loss"]
    scored = smalllm.evaluate(tmp_path / "run", tokens=config.eval.tokens)
    assert scored["checkpoint"] == f"step-{lowest['step']:08d}"
    assert scored["results"]["loss"]["loss"] == lowest["loss"]


def test_evaluate_equals_the_row_of_the_same_tokens(finished: Finished) -> None:
    for row in rows(finished, "val"):
        checkpoint = finished.run.checkpoints / f"step-{row['step']:08d}"
        if checkpoint.exists():
            scored = smalllm.evaluate(checkpoint, tokens=finished.config.eval.tokens)["results"]["loss"]
            assert {name: scored[name] for name in MEASURES} == {name: row[name] for name in MEASURES}
            last = scored
    everything = smalllm.evaluate(finished.out)["results"]["loss"]
    assert everything["scored_tokens"] > last["scored_tokens"] == finished.config.eval.tokens
    assert everything["loss"] != last["loss"]  # the partner: other tokens, another loss
    assert {name: everything[name] for name in MEASURES} == finished.result["val"]


def test_evaluation_by_hand(finished: Finished) -> None:
    """Windows in order, every target once; in bytes a token is a byte and the end of a document is none."""
    run = smalllm.load_run(finished.out)
    data = Path(str(finished.config.data.path))
    stream = open_split(data, read_manifest(data), "val")
    context = finished.config.model.context_length
    n_windows = (stream.n_tokens - 1) // context
    ids = torch.from_numpy(stream.read(0, n_windows * context + 1).astype(np.int64))
    with torch.no_grad():
        logits = run.model(ids[:-1].view(n_windows, context)).double()
    targets = ids[1:]
    nats = -logits.flatten(0, 1).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    is_text = targets < 256
    scored = smalllm.evaluate(finished.out)
    assert scored["run"] == str(finished.out) and scored["checkpoint"] == "step-00000014"
    assert set(scored) == {"run", "checkpoint", "results"} and set(scored["results"]) == {"loss"}
    found = scored["results"]["loss"]
    assert set(found) == {
        *MEASURES, "unigram", "scored_tokens", "scored_bytes", "loss_stderr", "bits_per_byte_stderr", "top5_accuracy",
        "by_position", "by_frequency",
    }  # fmt: skip
    assert found["scored_tokens"] == len(targets)
    assert found["loss"] == pytest.approx(nats.mean().item(), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats[is_text].mean().item() / math.log(2), rel=1e-6)
    assert found["accuracy"] == (logits.flatten(0, 1).argmax(-1) == targets).double().mean().item()
    train = open_split(data, read_manifest(data), "train")
    counts = np.bincount(train.read(0, train.n_tokens), minlength=257) + 1.0
    by_hand = -np.log(counts / counts.sum())[targets.numpy()].mean()
    assert found["unigram"]["loss"] == pytest.approx(by_hand, rel=0.02)  # smoothing of unseen tokens is its own


def test_a_loaded_run(finished: Finished) -> None:
    run = smalllm.load_run(str(finished.out))
    token_ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    logits = run.model(token_ids)
    assert logits.shape == (2, 3, 257) and not run.model.training
    text = "Zoë\x00\r\n😀 <|endoftext|>"
    assert run.tokenizer.decode(run.tokenizer.encode(text)) == text
    assert run.config == load_recipe(str(finished.run.config)) and run.config.model.d_model == 32
    assert run.config.model.d_ff == 128 and run.config.train.max_steps == 14
    assert run.precision == "fp32"  # as it was trained, on the device it was trained on
    assert smalllm.load_run(finished.out, precision="bf16").precision == "bf16"
    weights = load_checkpoint(finished.run.checkpoints / "step-00000014").model
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, weights[name])
    # The partner: another checkpoint of the same run is another model.
    other = smalllm.load_run(finished.run.checkpoints / "step-00000012")
    assert not torch.equal(other.model(token_ids), logits)


def test_generate(finished: Finished) -> None:
    told: list[tuple[int, str]] = []
    sampling = SamplingConfig(max_tokens=40, seed=3)
    texts = smalllm.generate(
        finished.out, "the ", sampling=sampling, n=2, on_text=lambda sample, text: told.append((sample, text))
    )
    assert len(texts) == 2 and texts[0].text != texts[1].text
    for sample, text in enumerate(texts):
        assert "".join(piece for number, piece in told if number == sample) == text.text
        assert text.finish_reason in ("length", "stop") and text.n_tokens >= 1
    assert texts == smalllm.generate(finished.out, "the ", sampling=sampling, n=2)


def test_a_run_without_its_tokenizer_or_with_another(finished: Finished, tmp_path: Path) -> None:
    prepared_config(tmp_path)
    train_until(2, override(finished.config, {"data.path": str(tmp_path / "data")}), tmp_path / "run")
    (tmp_path / "run" / "tokenizer" / "smalllm.json").unlink()
    with pytest.raises(TokenizerError, match="holds no smalllm tokenizer"):
        smalllm.load_run(tmp_path / "run")
    spm = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280, "data.path": str(tmp_path / "spm")}
    smalllm.prepare(override(finished.config, spm))
    (tmp_path / "run" / "tokenizer").rename(tmp_path / "aside")
    (tmp_path / "spm" / "tokenizer").rename(tmp_path / "run" / "tokenizer")
    with pytest.raises(CheckpointError, match=r"made with tokenizer \w{64}, but the tokenizer here is sentencepiece"):
        smalllm.load_run(tmp_path / "run")


def test_evaluating_on_other_data(finished: Finished, tmp_path: Path) -> None:
    prepared_config(tmp_path, seed=9)
    there = smalllm.evaluate(finished.out, data=tmp_path / "data")["results"]["loss"]
    assert there["loss"] != finished.result["val"]["loss"]
    assert there["loss"] == pytest.approx(finished.result["val"]["loss"], rel=0.1)  # the same kind of text
    spm = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280, "data.path": str(tmp_path / "spm")}
    smalllm.prepare(override(finished.config, spm))
    with pytest.raises(CheckpointError, match="but the tokenizer here is sentencepiece"):
        smalllm.evaluate(finished.out, data=tmp_path / "spm")
    with pytest.raises(DataError, match="prepare it first"):
        smalllm.evaluate(finished.out, data=tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"tasks has 'helaswag': must be one of loss, .*did you mean"):
        smalllm.evaluate(finished.out, tasks=["loss", "helaswag"])


def test_what_is_not_a_run(tmp_path: Path, finished: Finished) -> None:
    with pytest.raises(CheckpointError, match="neither a run directory nor a checkpoint"):
        smalllm.load_run(tmp_path)
    alone = tmp_path / "a" / "b" / "step-00000001"
    alone.mkdir(parents=True)
    (alone / "state.json").write_text("{}")
    with pytest.raises(RunError, match=r"config\.toml: missing; a checkpoint is read together with the run"):
        smalllm.load_run(alone)
    with pytest.raises(ConfigError, match=r'train\.device = "mps"'):
        smalllm.load_run(finished.out, device="mps")


@pytest.mark.parametrize("given", ["recipe", "file", "changes", "stored"])
def test_the_command_for_missing_data_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    """What the error prints is typed in as it stands, and then the same training command runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("two words.txt", "b.txt"):
        Path(name).write_text(make_text())
    changes = {
        "data.files": ("two words.txt", "b.txt"), "data.separator": ".\n", "data.val_fraction": 0.2,
        "tokenizer.kind": "bytes", "data.path": "my data",
    }  # fmt: skip
    options = [w for name, v in changes.items() for w in (f"--{name}", *(v if isinstance(v, tuple) else [str(v)]))]
    recipe = "shakespeare"
    if given == "file":
        save_config(override(tiny_config(tmp_path), {"recipe": "my", **changes}), tmp_path / "my.toml")
        recipe, options = "my.toml", []
    elif given == "recipe":
        changes.pop("data.path")
        options = options[:-2]
    elif given == "stored":
        smalllm.prepare(override(tiny_config(tmp_path), changes))
        train_until(2, override(tiny_config(tmp_path), changes), tmp_path / "run")
        Path("my data").rename("gone")
        options = [*options, "--resume"]
    tiny = ["--train.max_steps", "3", "--out", "run"]
    if given != "file":
        shape = ["--model.n_layers", "1", "--model.n_heads", "2", "--model.d_model", "32"]
        sizes = ["--model.context_length", "16", "--train.tokens_per_step", "128", "--train.compile", "false"]
        quick = ["--train.threads", "1", "--eval.tokens", "256", "--optim.warmup_steps", "0"]
        resumed = given == "stored"
        tiny = tiny if resumed else [*tiny, *shape, *sizes, *quick]
    assert cli.main(["train", recipe, *options, *tiny]) == 1
    said = capsys.readouterr().err
    command = next(line for line in said.splitlines() if line.startswith("  smalllm prepare"))
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
    words = printed.stdout.rstrip("\0").split("\0")  # as the shell reads them
    assert words[:2] == ["smalllm", "prepare"]
    assert cli.main(words[1:]) == 0
    assert len(read_manifest(Path("my data" if given != "recipe" else "data/shakespeare")).splits["val"].files) == 1
    assert cli.main(["train", recipe, *options, *tiny]) == 0


def test_a_configuration_built_in_python_says_the_python_call(tmp_path: Path) -> None:
    config = override(RunConfig(), {"data.files": ("x.txt",), "data.path": str(tmp_path / "d"), "train.max_steps": 1})
    with pytest.raises(DataError, match=r"smalllm\.prepare\(config, out=Path\('.*/d'\)\)"):
        smalllm.train(config, out=tmp_path / "run")


def test_a_run_that_was_stopped_says_so(finished: Finished, tmp_path: Path) -> None:
    result = smalllm.train(finished.config, out=tmp_path, progress=StopAt(2))
    assert result == {"stopped": "SIGTERM", "steps": 2, "saved_steps": 2, "run": str(tmp_path)}
    assert not RunDir(tmp_path).result.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # of torch.compile
def test_data_that_fail_are_not_taken_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalllm.api.sitting._VERIFY_BYTES", 0)  # as large shards are: looked at when they are read
    config = prepared_config(tmp_path, {"train.compile": True})
    for shard in (tmp_path / "data").glob("train*.bin"):
        shard.write_bytes(b"\xff" * shard.stat().st_size)
    said = StopAt(1)
    with pytest.raises(DataError, match="is 65535; expected ids below"):
        smalllm.train(config, out=tmp_path / "run", progress=said)
    assert not any("torch.compile failed" in line for line in said.said)


def test_stories_report_their_floor(tmp_path: Path) -> None:
    tiny = {
        "data.stories": 300, "data.val_fraction": 0.1, "tokenizer.kind": "bytes", "tokenizer.vocab_size": None,
        "model.n_layers": 1, "model.n_heads": 2, "model.d_model": 32, "model.context_length": 2048,
        "train.max_steps": 2, "train.tokens_per_step": 2048, "train.compile": False, "train.threads": 1,
        "train.precision": "fp32", "eval.tokens": 2000, "eval.final_tokens": 2000, "eval.sample_prompts": (),
        "data.path": str(tmp_path / "data"), "optim.warmup_steps": 0,
    }  # fmt: skip
    config = override(load_recipe("stories"), tiny)
    manifest = smalllm.prepare(config)
    assert manifest.floor is not None and manifest.floor.documents == manifest.splits["val"].documents
    train_until(1, config, tmp_path / "run")
    scored = smalllm.evaluate(tmp_path / "run", tokens=2000)["results"]["loss"]
    assert set(scored["floor"]) == {"loss", "bits_per_byte", "ratio", "excess_share"}
    assert scored["floor"]["bits_per_byte"] < scored["bits_per_byte"]
    assert scored["floor"]["ratio"] == scored["bits_per_byte"] / scored["floor"]["bits_per_byte"]
    # A model of two updates is no better than letter frequencies; the grammar is far better than both.
    assert scored["floor"]["loss"] < scored["unigram"]["loss"]


def test_the_public_names() -> None:
    assert set(smalllm.__all__) <= set(dir(smalllm)) and all(callable(getattr(smalllm, n)) for n in smalllm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = smalllm.trian


def test_a_tokenizer_asked_for_must_have_made_the_data(tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    asked = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 300}
    with pytest.raises(ConfigError, match=r"tokenizer\.kind = sentencepiece: the data was prepared with bytes"):
        smalllm.train(override(config, asked), out=tmp_path / "asked", changes=asked)
    smalllm.train(override(config, asked), out=tmp_path / "recipe")  # a recipe's tokenizer gives way to the data's
