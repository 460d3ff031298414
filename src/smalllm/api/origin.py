"""What a run takes from the one that `train.init_from` names: its weights, its shape and its tokenizer.

A run reads its origin until it has a checkpoint of its own; from then on it does without.
"""

import shlex
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from smalllm.api.data import data_path, prepare_command
from smalllm.checkpoint import checkpoint_paths, copy_parameters
from smalllm.config import ModelConfig, RunConfig, field_names
from smalllm.data.manifest import read_manifest
from smalllm.errors import CheckpointError, ConfigError, RunError, TokenizerError
from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer
from smalllm.recipes import load_recipe, override
from smalllm.recipes.resolve import resolve_shape
from smalllm.run import Run, load_run
from smalllm.rundir import RunDir, read_json

RATE_SHARE = 0.1  # of the recipe's peak rates: rates in use for fine-tuning are about a tenth of those for new weights

_POSITIONS = "position_embedding.weight"
_OWN = ("dropout", "init")  # fields of the model that the new run decides; its context it may shorten
_SHAPE = tuple(f"model.{key}" for key in field_names(ModelConfig))


def open_origin(run: RunDir, config: RunConfig) -> Run | None:
    """The run to start from; None for new weights, and for a run that has checkpoints of its own.

    Raises:
        CheckpointError, RunError, TokenizerError: it cannot be used.
    """
    path = config.train.init_from
    if path is None or checkpoint_paths(run):
        return None
    try:
        return load_run(path, device="cpu", precision="fp32")
    except (CheckpointError, RunError, TokenizerError) as error:
        raise type(error)(f"train.init_from: {error}") from error


def adopt(
    run: RunDir, config: RunConfig, origin: Run, *, given: Collection[str], stored: bool
) -> tuple[RunConfig, list[str]]:
    """The configuration with the shape and the tokenizer of the run to start from.

    Args:
        run: that starts.
        config: what the user asked for, or what is stored.
        origin: what it starts from.
        given: the dotted fields that the user gave.
        stored: the run was started before, though it has no checkpoint: its shape is given too.

    Returns:
        It, and notices of what was replaced.

    Raises:
        ConfigError: a field that was given contradicts the origin.
    """
    wrong = _contradictions(config, origin, {*given, *_SHAPE} if stored else given)
    if wrong:
        raise ConfigError(
            [*wrong, f"{run.path}: was started from another model; choose another --out"] if stored else wrong
        )
    shape, asked = resolve_shape(origin.config.model), config.model
    context_length = min(asked.context_length, shape.context_length)
    model = replace(shape, dropout=asked.dropout, init=asked.init, context_length=context_length)
    notices = [f"starting from the weights of {origin.checkpoint}"]
    replaced = [(key, getattr(model, key), getattr(asked, key)) for key in field_names(ModelConfig)]
    changes = [f"{key} {now} (not {then})" for key, now, then in replaced if then not in (now, None)]
    if changes:
        notices.append(f"the model has their shape, not the recipe's: {', '.join(changes)}")
    folder = config.tokenizer.path if stored or "tokenizer.path" in given else run.tokenizer
    return _with_tokenizer(replace(config, model=model), origin.tokenizer, folder), notices


def lower_rates(config: RunConfig, *, given: Collection[str], name: str) -> tuple[RunConfig, list[str]]:
    """A tenth of the recipe's peak rates, but of those that were given, for a new run told to start from another.

    Args:
        config: what the user asked for.
        given: the dotted fields that the user gave.
        name: the recipe's name or path; one that sets `train.init_from` itself, as a stored configuration does, has
            rates meant for that.

    Returns:
        It, and notices of what was changed.
    """
    keys = ["optim.lr", "optim.muon_lr"] if config.optim.kind == "muon" else ["optim.lr"]
    keys = [key for key in keys if key not in given]
    if "train.init_from" not in given or not keys or _is_tuning(name):
        return config, []
    rates = {key: getattr(config.optim, key.removeprefix("optim.")) for key in keys}
    lower = {key: float(f"{rate * RATE_SHARE:.12g}") for key, rate in rates.items()}
    words = ", ".join(f"{key} {lower[key]:g} (not {rate:g})" for key, rate in rates.items())
    choose = " and ".join(f"--{key}" for key in keys)
    return override(config, lower), [f"fine-tuning with a tenth of the recipe's rate: {words}; choose with {choose}"]


def data_command(config: RunConfig, origin: Run, *, name: str) -> str:
    """What prepares the data of `config` with the origin's tokenizer, ready for a shell."""
    return prepare_command(_with_tokenizer(config, origin.tokenizer, origin.dir.tokenizer), name=name)


def check_data(config: RunConfig, origin: Run, *, name: str) -> None:
    """Refuse data that was made with another tokenizer than the origin's.

    Raises:
        TokenizerError: it was; the message names both, and what prepares the text anew.
    """
    data, tokenizer = data_path(config), origin.tokenizer
    if not (data / "manifest.json").exists():
        return  # said where the data is opened
    found = read_manifest(data).tokenizer
    if found.sha256 != tokenizer.fingerprint:
        other = data.with_name(f"{data.name}-{origin.dir.path.resolve().name}")
        command = data_command(override(config, {"data.path": str(other)}), origin, name=name)
        raise TokenizerError(
            f"{data}: was made with {found.kind} tokenizer {found.sha256}, but train.init_from = "
            f"{config.train.init_from} was trained with {tokenizer.kind} tokenizer {tokenizer.fingerprint}; "
            f"prepare the text with the latter, then train with --data.path {shlex.quote(str(other))}:\n  {command}"
        )


def copy_weights(model: GPT, origin: Run) -> None:
    """Copy the origin's weights into a model of the adopted shape; learned positions past its context are left out."""
    tensors: dict[str, Tensor] = dict(origin.model.named_parameters())
    if _POSITIONS in tensors:
        tensors[_POSITIONS] = tensors[_POSITIONS][: model.config.context_length]
    copy_parameters(model, tensors, where=str(origin.checkpoint))


def origin_facts(run: RunDir, config: RunConfig, origin: Run | None) -> dict[str, Any]:
    """What `environment.json` says of the origin: read from it now, or kept from the sitting that read it."""
    if origin is None:
        kept = read_json(run.environment).get("init_from")
        return {"init_from": kept} if config.train.init_from and kept else {}
    files = read_json(origin.checkpoint / "manifest.json")["files"]
    sha256 = files["model.safetensors"]["sha256"]
    return {"init_from": {"path": config.train.init_from, "step": origin.state.step, "sha256": sha256}}


def _contradictions(config: RunConfig, origin: Run, fixed: Collection[str]) -> list[str]:
    shape, tokenizer, path = resolve_shape(origin.config.model), origin.tokenizer, config.train.init_from
    wrong = []
    for key in field_names(ModelConfig):
        asked, has = getattr(config.model, key), getattr(shape, key)
        if f"model.{key}" not in fixed or key in _OWN or asked in (None, has):
            continue
        if key != "context_length":
            wrong.append(f"model.{key} = {asked}: the weights of train.init_from = {path} have {has}; leave it out")
        elif asked > has:
            wrong.append(f"model.{key} = {asked}: train.init_from = {path} was trained with {has}; give 1 to {has}")
    for key in ("kind", "vocab_size"):
        asked, has = getattr(config.tokenizer, key), getattr(tokenizer, key)
        if f"tokenizer.{key}" in fixed and asked not in (None, has):
            wrong.append(f"tokenizer.{key} = {asked}: train.init_from = {path} was trained with {has}; leave it out")
    return wrong


def _with_tokenizer(config: RunConfig, tokenizer: Tokenizer, folder: Path | str | None) -> RunConfig:
    """The configuration with `[tokenizer]` such that `prepare` makes data with this one."""
    changes = {
        "tokenizer.kind": tokenizer.kind,
        "tokenizer.vocab_size": tokenizer.vocab_size if config.tokenizer.vocab_size else None,
        "tokenizer.path": None if folder is None or tokenizer.kind == "bytes" else str(folder),
    }
    return override(config, changes)


def _is_tuning(name: str) -> bool:
    """Whether a recipe starts from a run."""
    try:
        return load_recipe(name).train.init_from is not None
    except ConfigError:  # a configuration that was built in Python has no file
        return False
