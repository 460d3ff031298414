"""Whole runs with documents kept apart in the stream, and with one document per window."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import smalllm
from run_helpers import StopAt, exact_rows, final_files, prepared_config, tiny_config, train_until
from smalllm.api.batches import make_batches
from smalllm.api.data import prepare_command
from smalllm.api.sitting import sit_down
from smalllm.config import RunConfig
from smalllm.data.padded import IGNORED, index_documents
from smalllm.data.shards import open_split, read_manifest
from smalllm.errors import ConfigError, DataError
from smalllm.generation.engine import generate_tokens
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.text import prompt_ids
from smalllm.model.documents import find_documents
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, locked, read_jsonl

CONTEXT = 32  # the lines of the text have 12 to about 50 bytes
EOS = 256
LINES: dict[str, Any] = {
    "data.separator": "\n", "model.context_length": CONTEXT, "train.tokens_per_step": 8 * CONTEXT,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "mask": {**LINES, "data.document_mask": True},
    "padded": {**LINES, "data.packing": "padded"},
    "plain": LINES,
}


@dataclass(frozen=True)
class Trained:
    config: RunConfig
    out: Path
    said: list[str]
    result: dict[str, Any]

    @property
    def data(self) -> Path:
        return Path(str(self.config.data.path))

    @property
    def val_ids(self) -> NDArray[np.int64]:
        stream = open_split(self.data, read_manifest(self.data), "val")
        return stream.read(0, stream.n_tokens).astype(np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepared_config(folder, LINES)
    return folder


def config_of(data: Path, option: str, changes: dict[str, Any] | None = None) -> RunConfig:
    return tiny_config(data, {**OPTIONS[option], **(changes or {})})


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    runs = {}
    for option in OPTIONS:
        config, out, progress = config_of(data, option), tmp_path_factory.mktemp(option), StopAt(0)
        result = smalllm.train(config, out=out, progress=progress)
        runs[option] = Trained(config, out, progress.said, result)
    return runs


def train_rows(out: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(RunDir(out).metrics) if row["split"] == "train"]


@pytest.mark.parametrize("option", ["mask", "padded"])
def test_stopped_and_resumed_is_bit_for_bit_the_same(
    trained: dict[str, Trained], data: Path, tmp_path: Path, option: str
) -> None:
    for step in (1, 5, 9):
        train_until(step, config_of(data, option), tmp_path, resume=True)
    smalllm.train(config_of(data, option), out=tmp_path, resume=True)
    assert exact_rows(tmp_path) == exact_rows(trained[option].out)
    assert final_files(tmp_path) == final_files(trained[option].out)


def test_the_options_make_different_runs(trained: dict[str, Trained]) -> None:
    """The partner: what is compared above differs where the option does."""
    assert len({str(final_files(run.out)) for run in trained.values()}) == 3


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("mask", {"data.document_mask": False}),
        ("padded", {"data.packing": "stream"}),
        ("plain", {"data.document_mask": True}),
    ],
)
def test_a_resume_cannot_change_it(trained: dict[str, Trained], option: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="and a resume cannot change it"):
        smalllm.train(trained[option].config, out=trained[option].out, resume=True, changes=changes)


# --- training


def test_a_step_of_padded_windows_has_whole_documents_and_counts_their_tokens(
    trained: dict[str, Trained], data: Path, tmp_path: Path
) -> None:
    config, run = config_of(data, "padded"), RunDir(tmp_path)
    with locked(run):
        sitting = sit_down(run, config, None, stored=False, changes={}, command="", progress=StopAt(0))
    counts = []
    for cursor in (0, 8):
        for inputs, targets in make_batches(sitting.config, sitting.windows, sitting.feed, sitting.ranks)(cursor):
            assert inputs.shape == targets.shape == (4, CONTEXT) and (inputs[:, 0] == EOS).all()
            counts.append(int((targets != IGNORED).sum()))
            for row in targets.tolist():
                text = bytes(t for t in row if 0 <= t < EOS).decode()
                assert text[0].isupper() and (text[-1] == "." or len(text) == CONTEXT)  # a line from its start
    rows = train_rows(trained["padded"].out)
    assert [row["tokens"] for row in rows[:2]] == [sum(counts[:2]), sum(counts)]
    assert all(row["tokens"] < row["step"] * 8 * CONTEXT for row in rows)
    assert rows[1]["tokens_per_second"] == pytest.approx(sum(counts[2:]) / rows[1]["step_time_s"])
    plain = train_rows(trained["plain"].out)
    assert [row["tokens"] for row in plain] == [row["step"] * 8 * CONTEXT for row in plain]


def test_the_user_is_told_what_is_cut_and_padded(trained: dict[str, Trained]) -> None:
    run = trained["padded"]
    index = index_documents(open_split(run.data, read_manifest(run.data), "train"), eos_id=EOS, context_length=CONTEXT)
    (notice,) = (text for text in run.said if text.startswith("train: "))
    assert notice.startswith(f"train: {index.n_documents:,} documents, one per window of 32; ")
    assert f"cut: {index.n_cut:,} (" in notice and 0 < index.n_cut < index.n_documents
    assert not any("documents" in text for text in trained["plain"].said)


def test_epochs_and_tokens_do_not_count_padding(data: Path, tmp_path: Path) -> None:
    manifest = read_manifest(data / "data")
    index = index_documents(open_split(data / "data", manifest, "train"), eos_id=EOS, context_length=CONTEXT)
    epochs = config_of(data, "padded", {"train.max_steps": None, "train.max_epochs": 2.0})
    train_until(1, epochs, tmp_path / "epochs")
    assert load_recipe(str(tmp_path / "epochs")).train.max_steps == 2 * index.n_documents // 8
    asked = index.n_kept_tokens // 2
    tokens = config_of(data, "padded", {"train.max_steps": None, "train.max_tokens": asked, "train.log_every": 1000})
    result = smalllm.train(tokens, out=tmp_path / "tokens")
    # As many steps as the mean document asks for, so nearly so many tokens.
    assert result["tokens"] == pytest.approx(asked, rel=0.03) and result["tokens"] != result["steps"] * 8 * CONTEXT


def test_text_without_documents(tmp_path: Path) -> None:
    one = prepared_config(tmp_path)  # one text, one document
    with pytest.raises(DataError, match=r"The train split is one document of [\d,]+ tokens; packing"):
        smalllm.train(override(one, {"data.packing": "padded"}), out=tmp_path / "padded")
    said = train_until(1, override(one, {"data.document_mask": True}), tmp_path / "mask")
    assert any("document_mask = true changes nothing" in text for text in said)


def test_data_is_prepared_the_same_for_every_option(data: Path) -> None:
    commands = {prepare_command(config_of(data, option), name="shakespeare") for option in OPTIONS}
    assert len(commands) == 1 and "separator" in commands.pop()


# --- evaluation


def nats_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]


def test_masked_evaluation_is_each_document_alone(trained: dict[str, Trained]) -> None:
    run, losses = smalllm.load_run(trained["mask"].out), {}
    ids = trained["mask"].val_ids
    n = (len(ids) - 1) // CONTEXT
    tokens = torch.from_numpy(ids[: n * CONTEXT + 1])
    inputs, targets = tokens[:-1].view(n, CONTEXT), tokens[1:].view(n, CONTEXT)
    alone = []
    with torch.no_grad():
        for row, answers in zip(inputs, targets, strict=True):
            starts = sorted({0, *(row == EOS).nonzero().flatten().tolist()})
            for start, stop in zip(starts, [*starts[1:], CONTEXT], strict=True):
                alone.append(nats_of(run.model(row[None, start:stop])[0], answers[start:stop]))
        losses["unmasked"] = nats_of(run.model(inputs), targets).mean().item()
        masked = run.model(inputs, documents=find_documents(inputs, eos_id=EOS))
        losses["masked"] = nats_of(masked, targets).mean().item()
    nats = torch.cat(alone)
    found = smalllm.evaluate(trained["mask"].out)["results"]["loss"]
    assert found["scored_tokens"] == len(nats) == n * CONTEXT  # every token is scored, the first of a document too
    assert found["loss"] == pytest.approx(nats.mean().item(), rel=1e-6) == losses["masked"]
    assert found["loss"] != pytest.approx(losses["unmasked"], rel=1e-6)
    is_text = targets.flatten() != EOS
    assert found["bits_per_byte"] == pytest.approx(nats[is_text].mean().item() / math.log(2), rel=1e-6)
    assert found["loss"] == pytest.approx(trained["mask"].result["val"]["loss"])


def test_padded_evaluation_is_each_document_from_its_start(trained: dict[str, Trained]) -> None:
    run, alone, texts = smalllm.load_run(trained["padded"].out), [], []
    ids = trained["padded"].val_ids
    ends = np.flatnonzero(ids == EOS) + 1
    for document in np.split(ids, ends)[:-1]:
        kept = torch.from_numpy(document[:CONTEXT])
        with torch.no_grad():
            alone.append(nats_of(run.model(torch.cat([torch.tensor([EOS]), kept[:-1]])[None])[0], kept))
        texts.append(kept != EOS)
    nats, is_text = torch.cat(alone), torch.cat(texts)
    found = smalllm.evaluate(trained["padded"].out)["results"]["loss"]
    assert found["scored_tokens"] == len(nats) < len(ids)
    assert found["loss"] == pytest.approx(nats.mean().item(), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats[is_text].mean().item() / math.log(2), rel=1e-6)
    some = smalllm.evaluate(trained["padded"].out, tokens=200)["results"]["loss"]
    assert some["scored_tokens"] == pytest.approx(200, abs=2 * CONTEXT) and some["loss"] != found["loss"]
    stream = open_split(trained["padded"].data, read_manifest(trained["padded"].data), "train")
    counts = np.bincount(stream.read(0, stream.n_tokens), minlength=257) + 1.0
    targets = np.concatenate([d[:CONTEXT] for d in np.split(ids, ends)[:-1]])
    by_hand = -np.log(counts / counts.sum())[targets].mean()
    assert found["unigram"]["loss"] == pytest.approx(by_hand, rel=1e-9)


# --- generation


def test_prompts_begin_as_documents_did_in_training(trained: dict[str, Trained]) -> None:
    run = smalllm.load_run(trained["padded"].out)
    for option, opens in {"mask": [EOS], "padded": [EOS], "plain": []}.items():
        for prompt in ("", "The c"):
            assert prompt_ids(prompt, run.tokenizer, trained[option].config.data) == [*opens, *prompt.encode()]


@pytest.mark.parametrize("option", ["mask", "padded"])
def test_generation_starts_a_prompt_with_the_end_token(trained: dict[str, Trained], option: str) -> None:
    run = smalllm.load_run(trained[option].out)
    sampling = SamplingConfig(max_tokens=8, seed=2)
    (made,) = generate_tokens(run.model, [EOS, *b"The c"], sampling, eos_id=EOS)
    (text,) = smalllm.generate(run, "The c", sampling=sampling)
    assert text.text == run.tokenizer.decode(made.token_ids) and text.n_tokens == len(made.token_ids)
    with torch.no_grad():
        opened, bare = run.model(torch.tensor([[EOS, *b"The c"]])), run.model(torch.tensor([[*b"The c"]]))
    assert not torch.allclose(opened[0, -1], bare[0, -1])  # it makes a difference
