"""A run goes out to Hugging Face and comes back as the same run; what fails leaves nothing behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch

from device_helpers import parameters_to_mps
from run_helpers import prepared_config, tree
from smalllm import cli
from smalllm.api import evaluate, export, generate, import_model, load_run, train
from smalllm.errors import ConfigError, InteropError
from smalllm.generation.sampling import SamplingConfig
from smalllm.protocols import Silent
from smalllm.rundir import RunDir

transformers = pytest.importorskip("transformers", reason="compares with transformers: pip install 'smalllm[hf]'")
GREEDY = SamplingConfig(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-shaped run of a few steps with a SentencePiece vocabulary."""
    folder = tmp_path_factory.mktemp("trained")
    changes: dict[str, Any] = {
        "tokenizer.kind": "sentencepiece",
        "tokenizer.vocab_size": 300,
        "model.position": "rope",
        "model.norm": "rmsnorm",
        "model.mlp": "swiglu",
    }
    train(prepared_config(folder, changes), out=folder / "run")
    return folder / "run"


class Says(Silent):
    """Keeps what is said, and does something when a word is said."""

    def __init__(self, word: str = "", act: Callable[[], None] | None = None) -> None:
        self.word, self.act = word, act
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.act is not None and self.word in text:
            self.act()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_run_on_a_device_is_exported(format: Literal["hf", "gguf"], trained: Path, tmp_path: Path) -> None:
    if format == "gguf":
        pytest.importorskip("gguf")
    run = load_run(trained, device="cpu", precision="fp32")
    expected = export(run, tmp_path / "cpu", format=format)
    parameters_to_mps(run.model)
    assert replace(export(run, tmp_path / "mps", format=format), path=expected.path) == expected


def test_an_export_proves_itself_and_comes_back_as_the_same_run(trained: Path, tmp_path: Path) -> None:
    done = export(trained, tmp_path / "out" / "hf")
    assert done.path == tmp_path / "out" / "hf" and done.family == "LlamaForCausalLM"
    assert done.proof is not None and done.proof.n_texts > 10 and done.proof.logit_difference < 1e-4
    assert names_in(tmp_path / "out") == {"hf"}
    back = import_model(done.path, tmp_path / "back")
    assert back.proof is not None and back.parameters == done.parameters
    ours, theirs = (load_run(run, precision="fp32") for run in (trained, tmp_path / "back"))
    assert theirs.config.model == replace(ours.config.model, dropout=0.0) and theirs.tokenizer.kind == "sentencepiece"
    assert theirs.tokenizer.fingerprint == ours.tokenizer.fingerprint
    token_ids = torch.arange(16)[None]
    assert torch.equal(ours.model(token_ids), theirs.model(token_ids))
    assert generate(theirs, "the cat", sampling=GREEDY) == generate(ours, "the cat", sampling=GREEDY)
    data = trained.parent / "data"
    assert evaluate(theirs, data=data)["results"] == evaluate(ours, data=data)["results"]


def test_the_folder_is_an_ordinary_one_to_transformers(trained: Path, tmp_path: Path) -> None:
    folder = export(trained, tmp_path / "hf", dtype="bf16").path
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("the old cat", return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(made[0], skip_special_tokens=True).startswith("the old cat")


def test_the_model_card_says_what_the_run_knows(trained: Path, tmp_path: Path) -> None:
    card = (export(trained, tmp_path / "my-model").path / "README.md").read_text()
    result = json.loads(RunDir(trained).result.read_text())
    assert "# my-model" in card and 'folder = "my-model"' in card
    assert f"{result['parameters']:,} parameters" in card
    assert f"| bits per byte | {result['val']['bits_per_byte']:.4f} |" in card
    assert "`text.txt`" in card and "14 steps" in card and "sentencepiece, 300 ids" in card
    assert str(tmp_path) not in card and str(trained) not in card


# --- nothing is left of what failed


def test_an_export_that_computes_something_else_is_removed(trained: Path, tmp_path: Path) -> None:
    def spoil() -> None:
        (weights,) = tmp_path.rglob("model.safetensors")
        tensors = safetensors.torch.load_file(weights)
        tensors["model.norm.weight"] *= 2
        safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})

    with pytest.raises(InteropError, match=r"norm\.weight does not come back"):
        export(trained, tmp_path / "hf", progress=Says("verifying", spoil))
    assert names_in(tmp_path) == set()


def test_a_tokenizer_that_cuts_otherwise_is_found(trained: Path, tmp_path: Path) -> None:
    def spoil() -> None:
        (file,) = tmp_path.rglob("tokenizer.json")
        spec = json.loads(file.read_text())
        spec["model"]["merges"] = spec["model"]["merges"][::-1]
        file.write_text(json.dumps(spec))

    with pytest.raises(InteropError, match=r"token ids of .* differ"):
        export(trained, tmp_path / "hf", progress=Says("verifying", spoil))
    assert names_in(tmp_path) == set()


def test_an_interrupted_export_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(trained, tmp_path / "hf", progress=Says("verifying", interrupt))
    assert names_in(tmp_path) == set()


def test_a_terminated_export_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "smalllm", "export", str(trained), "--out", str(tmp_path / "hf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "verifying" in line:
                break
        assert any(tmp_path.rglob("model.safetensors"))  # it was in the middle of it
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in said
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_place_that_is_taken_is_left_alone(verb: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    act = export if verb == "export" else import_model
    before = tree(tmp_path)
    with pytest.raises(InteropError, match="holds something already"):
        act(trained, tmp_path / "taken")
    with pytest.raises(InteropError, match="exists already"):
        act(trained, tmp_path / "file")
    with pytest.raises(InteropError, match="cannot be written"):
        act(trained if verb == "export" else export(trained, tmp_path / "x").path, tmp_path / "file" / "below")
    assert {name: sha for name, sha in tree(tmp_path).items() if not name.startswith("x/")} == before


# --- import


def test_a_name_on_the_hub_is_read_from_its_cache(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    repository = cache / "models--someone--small"
    export(trained, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert import_model("someone/small", tmp_path / "run").family == "LlamaForCausalLM"
    assert load_run(tmp_path / "run").config.recipe == "small"
    with pytest.raises(InteropError, match=r"someone/other: no such folder here, and the Hugging Face Hub did not"):
        import_model("someone/other", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (repository / "snapshots" / "abc" / "model.safetensors").unlink()  # pickles are not fetched
    with pytest.raises(InteropError, match=r"someone/small: .*from_pretrained\('someone/small'\)\.save_pretrained"):
        import_model("someone/small", tmp_path / "other")


@pytest.mark.parametrize(("format", "family"), [("hf", "llama"), ("gguf", "llama"), ("hf", "gpt2")])
def test_a_model_that_sees_one_token_is_exported(format: Literal["hf", "gguf"], family: str, tmp_path: Path) -> None:
    if format == "gguf":
        pytest.importorskip("gguf")
    shapes = {"llama": {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"}, "gpt2": {"position": "learned"}}
    changes = {f"model.{key}": value for key, value in shapes[family].items()}
    changes |= {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 300}
    train(prepared_config(tmp_path, {**changes, "model.context_length": 1}), out=tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out", format=format)
    assert done.proof is not None and (done.proof.n_positions, done.proof.n_continued) == (1, 0)


@pytest.mark.network
def test_gpt2_itself_is_imported(tmp_path: Path) -> None:
    done = import_model("openai-community/gpt2", tmp_path / "gpt2")
    assert done.parameters == 124_439_808
    text = generate(tmp_path / "gpt2", "The capital of France is", sampling=GREEDY)[0].text
    assert "Paris" in text or "the" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "no such folder, and not a name on the Hugging Face Hub"), ("{tmp}/a.txt", "a file; expected")],
)
def test_a_source_that_is_none_is_refused(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InteropError, match=said):
        import_model(source.format(tmp=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_imported_run_is_a_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(trained, tmp_path / "hf")
    assert cli.main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM" in said and "verified with transformers" in said
    assert cli.main(["generate", str(tmp_path / "run"), "--prompt", "the", "--max-tokens", "3"]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "again"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["family"] == "LlamaForCausalLM" and again["proof"]["n_texts"] > 10
    card = (tmp_path / "again" / "README.md").read_text()
    assert "Started from `hf`" in card and "bits per byte" not in card


# --- the command line


def test_a_dtype_that_the_format_lacks_is_a_wrong_option(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--dtype q8_0: must be f32, f16, bf16 for --format hf"):
        export(trained, tmp_path / "hf", dtype="q8_0")
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "hf"), "--dtype", "q8_0"]) == 2


def test_a_run_that_no_class_holds_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    changes = {"model.position": "rope", "model.norm": "rmsnorm", "model.mlp": "gelu"}
    train(prepared_config(tmp_path, changes), out=tmp_path / "run")
    with pytest.raises(InteropError, match=r'no stock class holds this model: model\.norm = "rmsnorm"'):
        export(tmp_path / "run", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_gguf_file_proves_itself(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="writes GGUF: pip install 'smalllm[gguf]'")
    file = tmp_path / "out" / "small.gguf"
    words = ["export", str(trained), "--format", "gguf", "--dtype", "q8_0", "--out"]
    assert cli.main([*words, str(file)]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
    assert file.read_bytes()[:4] == b"GGUF" and names_in(tmp_path / "out") == {"small.gguf"}
    with pytest.raises(InteropError, match="exists already"):
        export(trained, file, format="gguf")
    assert cli.main([*words, str(tmp_path / "out")]) == 1
    assert "must name the file to write" in capsys.readouterr().err


def test_a_spoilt_gguf_file_is_removed(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="writes GGUF: pip install 'smalllm[gguf]'")

    def spoil() -> None:
        (file,) = tmp_path.rglob("small.gguf")
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)

    with pytest.raises(InteropError, match="does not come back as it went out"):
        export(trained, tmp_path / "small.gguf", format="gguf", progress=Says("verifying", spoil))
    assert names_in(tmp_path) == set()
