"""What a resumed run keeps, what it may change, and what must not have changed under it."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from smalllm import runtime
from smalllm.checkpoint import Checkpoint
from smalllm.config import RunConfig, as_dict
from smalllm.data.manifest import Manifest
from smalllm.errors import CheckpointError, ConfigError
from smalllm.protocols import Tokenizer
from smalllm.recipes import load_recipe, override
from smalllm.rundir import RunDir, read_json

# The rest decides the weights or the order of the data, and stays as stored. What memory a step needs decides neither.
_MAY_CHANGE = {
    "train.max_steps", "train.max_tokens", "train.max_epochs", "train.max_minutes", "train.save_every",
    "train.save_every_s", "train.keep_checkpoints", "train.log_every", "train.patience", "train.device",
    "train.micro_batch_size", "train.activation_checkpointing", "train.loss_chunks", "train.threads", "train.compile",
    "train.parallel", "train.tensor_parallel",
    "optim.lr", "optim.muon_lr", "optim.min_lr_ratio", "optim.schedule",
    "optim.warmup_steps", "optim.warmup_fraction", "optim.decay_fraction", "eval.every", "eval.tokens",
    "eval.sample_every", "eval.sample_prompts", "eval.final_tokens", "eval.tasks", "eval.tasks_every",
    "eval.task_examples", "data.path", "data.val_files",
    "track.trackers", "track.project", "track.name",
}  # fmt: skip
_LENGTHS = ("train.max_steps", "train.max_tokens", "train.max_epochs", "train.max_minutes")


def opened_config(run: RunDir, config: RunConfig, changes: Mapping[str, Any]) -> tuple[RunConfig, bool, list[str]]:
    """The configuration of a run that starts or goes on, unchecked, whether it was stored before, and notices.

    Args:
        run: the run directory.
        config: what the user asked for, used where nothing is stored.
        changes: the dotted fields the user gave; applied to what is stored.

    Raises:
        ConfigError: changes that would make it another run, or a device that is not there.
    """
    if not run.config.exists():
        return config, False, []
    stored = load_recipe(str(run.config))
    device = runtime.pick_device(changes.get("train.device", stored.train.device))
    lacks = not runtime.is_native(stored.train.precision, device)
    may_change = _MAY_CHANGE | ({"train.precision"} if lacks or device != stored.train.device else set())
    changes, notices = _given_up(changes, stored.train.precision, device) if lacks else (changes, [])
    wrong = []
    if config.recipe not in (stored.recipe, "config"):
        wrong.append(f'{run.path}: holds a run of recipe "{stored.recipe}", not "{config.recipe}"')
    kept = as_dict(stored)
    for name, value in changes.items():
        section, key = name.split(".")
        found = kept.get(section, {}).get(key)
        asked = list(value) if isinstance(value, tuple) else value
        if name not in may_change and asked not in (found, "auto"):  # what "auto" became then, it still is
            wrong.append(f"{name} = {asked!r}: {run.path} was started with {found!r}, and a resume cannot change it")
    if wrong:
        raise ConfigError([*wrong, "choose another --out to start a new run"])
    applied = {name: value for name, value in changes.items() if name in may_change}
    return override(stored, _anew(run, applied)), True, notices


def _given_up(changes: Mapping[str, Any], precision: str, device: str) -> tuple[Mapping[str, Any], list[str]]:
    """The changes of a run that goes on where its precision is not native, and notices.

    What is stored is FP32 in every precision, so another one can go on with it.
    """
    if "train.precision" in changes:
        return changes, []
    if precision == "tf32":
        notice = f'train.precision = "tf32" becomes "fp32": only NVIDIA GPUs have it, and this run goes on on {device}'
        return {**changes, "train.precision": "fp32"}, [notice]
    notice = (
        f'train.precision = "{precision}" is emulated on this {device}, which may be tens of times slower; '
        "--train.precision fp32 goes on without it"
    )
    return changes, [notice]


def _anew(run: RunDir, applied: dict[str, Any]) -> dict[str, Any]:
    """The changes with what they replace, and without what was resolved already and stays as it is."""
    if applied.get("train.micro_batch_size") == "auto":  # what it became then, it still is
        applied = {name: value for name, value in applied.items() if name != "train.micro_batch_size"}
    lengths = _lengths(applied)
    if lengths and lengths == read_json(run.environment).get("length"):  # minutes became steps once, and stay those
        applied = {name: value for name, value in applied.items() if name not in _LENGTHS}
    elif lengths:  # a new length replaces the old one
        applied = {**dict.fromkeys(_LENGTHS), **applied}
    if "optim.warmup_fraction" in applied:  # it was stored as warmup_steps
        applied = {"optim.warmup_steps": None, **applied}
    return applied


def length_facts(run: RunDir, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What `environment.json` says of a length in minutes: what was asked for, so that the same command is known again.

    Kept from an earlier sitting where no length is among `changes`. A length without minutes is the same in every
    sitting, and is not noted.
    """
    lengths = _lengths(changes) or read_json(run.environment).get("length", {})
    return {"length": lengths} if "train.max_minutes" in lengths else {}


def _lengths(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name in _LENGTHS and value is not None}


def facts_of(manifest: Manifest, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a checkpoint remembers of its data: enough to refuse others."""
    train = manifest.splits["train"]
    return {
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "train_shards": [f.sha256 for f in train.files],
        "train_tokens": train.tokens,
    }


def check_asked_tokenizer(config: RunConfig, manifest: Manifest, changes: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that was asked for and did not make the data; one that only a recipe names gives way.

    Raises:
        ConfigError: a field of `[tokenizer]` among `changes` disagrees with the manifest.
    """
    for key in ("kind", "vocab_size"):
        asked, made = getattr(config.tokenizer, key), getattr(manifest.tokenizer, key)
        if f"tokenizer.{key}" in changes and asked not in (None, made):
            raise ConfigError(
                f"tokenizer.{key} = {asked}: the data was prepared with {made}; leave --tokenizer.{key} out, or "
                "prepare the text again in another directory (--data.path)"
            )


def check_facts(run: RunDir, checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with other data than the run was started with.

    Raises:
        CheckpointError: a fingerprint differs; the message names both.
    """
    for key, now in facts.items():
        then = checkpoint.facts.get(key)
        if then != now:
            if isinstance(then, list):  # of hashes; the first that differs says enough
                index = next(i for i, (a, b) in enumerate(zip_longest(then, now)) if a != b)
                key, then, now = f"{key}[{index}]", then[index : index + 1], now[index : index + 1]
            raise CheckpointError(
                f"{run.path}: was trained with {key} {then}, but the data directory now has {now}; "
                "point --data.path to the data it was started with, or start a new run with another --out"
            )
