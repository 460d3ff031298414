"""`export` and `import`: a run as a Hugging Face folder or a GGUF file, and a Hugging Face checkpoint as a run."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from smalllm.checkpoint import TrainState, mark_best, save_checkpoint
from smalllm.config import RunConfig, TokenizerConfig, TrainConfig
from smalllm.data.durable import sync_directory
from smalllm.errors import ConfigError, InteropError
from smalllm.interop.card import model_card
from smalllm.interop.families import family_of
from smalllm.interop.gguf_file import write_gguf
from smalllm.interop.gguf_verify import verify_gguf
from smalllm.interop.hf_folder import TORCH_DTYPES, HFModel, read_hf_model, write_hf_model
from smalllm.interop.hub import find_folder
from smalllm.interop.tokenizer_files import write_hf_tokenizer
from smalllm.interop.tokenizer_sources import read_hf_tokenizer
from smalllm.interop.verify import Proof, import_transformers, verify_with_transformers
from smalllm.model.count import count_parameters
from smalllm.model.gpt import GPT
from smalllm.protocols import Progress, Silent
from smalllm.recipes import save_config
from smalllm.run import Run, load_run
from smalllm.rundir import RunDir, read_json, write_json
from smalllm.tokenizers import save_tokenizer
from smalllm.tokenizers.text_tokenizer import TextTokenizer

Format = Literal["hf", "gguf"]
Made = TypeVar("Made")
Dtype = Literal["f32", "f16", "bf16", "q8_0"]
DTYPES: dict[str, tuple[str, ...]] = {"hf": ("f32", "f16", "bf16"), "gguf": ("f32", "f16", "bf16", "q8_0")}


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export or import.

    Attributes:
        path: what was written.
        family: the Hugging Face class.
        parameters: how many.
        bytes: size of all files.
        proof: what was found equal; None where nothing could be compared.
    """

    path: Path
    family: str
    parameters: int
    bytes: int
    proof: Proof | None


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    format: Format = "hf",
    dtype: Dtype = "f32",
    progress: Progress | None = None,
) -> Exported:
    """Write a run for other programs, and prove it: load what was written with them and compare.

    What is written appears under its name only when the proof has succeeded.

    Args:
        run: a loaded run, or the path of one.
        out: the folder (hf) or file (gguf) to write; it must not exist, or be an empty folder (hf).
        format: hf for Hugging Face transformers, gguf for llama.cpp.
        dtype: of the weights; q8_0 (8 bits in blocks of 32) only in GGUF.
        progress: who is told how it goes.

    Raises:
        ConfigError: a dtype that the format does not have.
        InteropError: the model or tokenizer has no place there, `out` is taken, or what was written computes
            something else.
        CheckpointError: `run` is no usable run.
    """
    if dtype not in DTYPES[format]:
        raise ConfigError(f"--dtype {dtype}: must be {', '.join(DTYPES[format])} for --format {format}")
    out, progress = Path(out), progress or Silent()
    _check_free(out, may_be_empty_folder=format == "hf")
    run = run if isinstance(run, Run) else load_run(run, device="cpu")
    assert isinstance(run.tokenizer, TextTokenizer)
    family = family_of(run.config.model)
    write = _write_hf if format == "hf" else _write_gguf
    proof, size = _placed(out, lambda path: write(path, run, dtype, out.name, progress))
    n_parameters = count_parameters(run.config.model, vocab_size=run.tokenizer.vocab_size).total
    return Exported(out, family.hf_class, n_parameters, size, proof)


def import_model(source: str | Path, out: str | Path, *, progress: Progress | None = None) -> Exported:
    """Make a run of a Hugging Face checkpoint: GPT-2, Starcoder2, Llama or Qwen3.

    The run has one checkpoint, at step 0, and the checkpoint's tokenizer: generate with it, evaluate it, fine-tune it
    (`train.init_from`), export it. Where transformers is installed, its logits are compared.

    Args:
        source: a checkpoint folder, or a name on the Hub such as openai-community/gpt2.
        out: the run directory to write; it must not exist, or be empty.
        progress: who is told how it goes.

    Raises:
        InteropError: the source cannot be had, taken or trusted, or `out` is taken.
        TokenizerError: its tokenizer cannot be used.
    """
    out, progress = Path(out), progress or Silent()
    _check_free(out, may_be_empty_folder=True)
    folder = find_folder(str(source))
    tokenizer = read_hf_tokenizer(folder, notice=progress.say)
    imported = read_hf_model(folder, vocab_size=tokenizer.vocab_size)
    if imported.n_rows > tokenizer.vocab_size:
        progress.say(
            f"{folder}: {imported.n_rows - tokenizer.vocab_size:,} of {imported.n_rows:,} embedding rows have no "
            "token; they are left out"
        )
    proof = _proof_of_import(folder, imported, tokenizer, progress)
    _, size = _placed(out, lambda path: _write_run(path, str(source), out, imported, tokenizer))
    n_parameters = count_parameters(imported.config, vocab_size=tokenizer.vocab_size).total
    return Exported(out, imported.family.hf_class, n_parameters, size, proof)


def _write_hf(directory: Path, run: Run, dtype: str, name: str, progress: Progress) -> Proof:
    import_transformers()  # before any work
    tokenizer, parameters = run.tokenizer, _parameters(run)
    assert isinstance(tokenizer, TextTokenizer)
    directory.mkdir()
    write_hf_model(
        directory,
        run.config.model,
        parameters,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        dtype=dtype,
    )
    write_hf_tokenizer(tokenizer, directory, context_length=run.config.model.context_length)
    progress.say("verifying the export with transformers")
    back = read_hf_model(directory, vocab_size=tokenizer.vocab_size)
    _check_equal(run, back, dtype)
    if read_hf_tokenizer(directory, notice=progress.say).fingerprint != tokenizer.fingerprint:
        raise InteropError("the exported tokenizer does not come back as the run's own. Nothing was kept")
    proof = verify_with_transformers(directory, _model(back, tokenizer), tokenizer)
    environment = read_json(run.dir.environment)
    card = model_card(
        name,
        family_of(run.config.model),
        run.config,
        run.state,
        vocab_size=tokenizer.vocab_size,
        result=read_json(run.dir.result),
        origin=environment.get("init_from") or environment.get("imported_from") or {},
        proof=proof,
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
    return proof


def _write_gguf(path: Path, run: Run, dtype: str, name: str, progress: Progress) -> Proof:
    parameters, tokenizer = _parameters(run), run.tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    title = Path(name).stem
    write_gguf(path, run.config.model, parameters, tokenizer, dtype=dtype, name=title, notice=progress.say)
    progress.say("verifying the file")
    return verify_gguf(path, run.config.model, parameters, tokenizer, dtype=dtype, notice=progress.say)


def _parameters(run: Run) -> dict[str, Tensor]:
    """By name, on the CPU, where files are written and compared."""
    return {name: parameter.detach().cpu() for name, parameter in run.model.named_parameters()}


def _check_equal(run: Run, back: HFModel, dtype: str) -> None:
    """The weights and the shape of an export, read back, are the run's, rounded to `dtype`."""
    vocab_size = run.tokenizer.vocab_size
    for name, parameter in _parameters(run).items():
        n_rows = vocab_size if name.startswith(("token_embedding", "lm_head")) else len(parameter)
        rounded = parameter[:n_rows].to(TORCH_DTYPES[dtype]).float()
        if name not in back.parameters or not torch.equal(back.parameters[name][:n_rows], rounded):
            raise InteropError(f"{name} does not come back from the export as it went out. Nothing was kept")
    for field in ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_ff", "context_length", "norm_eps"):
        if getattr(back.config, field) != getattr(run.model.config, field):
            raise InteropError(f"model.{field} does not come back from the export as it went out. Nothing was kept")


def _model(found: HFModel, tokenizer: TextTokenizer) -> GPT:
    model = GPT(found.config, vocab_size=tokenizer.vocab_size)
    model.load_state_dict(found.parameters, strict=not found.config.tie_embeddings)
    return model.eval()


def _proof_of_import(folder: Path, imported: HFModel, tokenizer: TextTokenizer, progress: Progress) -> Proof | None:
    try:
        import_transformers()
    except InteropError:
        progress.say("not compared with transformers, which is not installed: pip install 'smalllm[hf]'")
        return None
    progress.say("comparing the model with transformers")
    follows = "PreTrainedTokenizerFast" if (folder / "tokenizer.json").is_file() else "AutoTokenizer"
    return verify_with_transformers(folder, _model(imported, tokenizer), tokenizer, tokenizer_class=follows)


def _write_run(path: Path, source: str, out: Path, imported: HFModel, tokenizer: TextTokenizer) -> None:
    """Write a run at `path` that is going to be `out`."""
    run = RunDir(path)
    kept = None if tokenizer.kind == "bytes" else str(RunDir(out).tokenizer)  # so that its data is prepared with it
    config = RunConfig(
        recipe=_recipe_name(source),
        model=imported.config,
        tokenizer=TokenizerConfig(kind=tokenizer.kind, vocab_size=tokenizer.vocab_size, path=kept),  # type: ignore[arg-type]
        train=TrainConfig(tokens_per_step=imported.config.context_length),
    )
    path.mkdir()
    save_config(config, run.config)
    save_tokenizer(tokenizer, run.tokenizer)
    origin = {"path": source, "class": imported.family.hf_class}
    write_json(run.environment, {"imported_from": origin})
    facts = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    save_checkpoint(run, TrainState(), model=imported.parameters, optimizer={}, facts=facts)
    mark_best(run, 0)


def _recipe_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]


def _check_free(out: Path, *, may_be_empty_folder: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InteropError(f"{out}: exists already; remove it, or choose another --out")
    if not may_be_empty_folder:
        raise InteropError(f"{out}: a folder; --out must name the file to write, for example {out / 'model.gguf'}")
    if any(out.iterdir()):
        raise InteropError(f"{out}: holds something already; remove it, or choose another --out")


def _placed(out: Path, write: Callable[[Path], Made]) -> tuple[Made, int]:
    """Have `write` fill a path beside `out`, and give it its name when all went well; else nothing is left."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise InteropError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        made = write(beside / out.name)
        files = [p for p in [beside / out.name, *(beside / out.name).rglob("*")] if p.is_file()]
        size = sum(file.stat().st_size for file in files)
        for file in files:
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        os.replace(beside / out.name, out)
        sync_directory(out.parent)
    except OSError as error:
        raise InteropError(
            f"{out}: could not be written ({error.strerror or error}); free some space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return made, size
