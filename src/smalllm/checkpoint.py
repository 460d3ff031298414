"""Checkpoints: all that an exact resume needs, written so that a crash at any instant loses none.

    step-00001000/model.safetensors       parameters, a tied matrix once
    step-00001000/optimizer.safetensors   optimizer state, "parameter/state" -> tensor
    step-00001000/state.json              `TrainState` and the fingerprints of tokenizer and data
    step-00001000/manifest.json           size and sha256 of the other three; written last
    latest, best                          the name of a checkpoint

Written to a temporary directory, synced, renamed, and only then named in `latest`. A checkpoint that does not match
its manifest is set aside as `damaged-…` and the next older one is used; one that cannot be read just now is passed over
and stays. Never pickle.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from smalllm.checkpoint_manifest import FORMAT, VERSION, read_manifest, reading, sha256_of, sync_file, verify_file
from smalllm.data.durable import sync_directory
from smalllm.errors import CheckpointError, UnreadableError, VersionError
from smalllm.optim.guards import FIRST_SCALE
from smalllm.rundir import RunDir, write_text
from smalllm.sharded import local, part_of

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """Where a run stands, besides weights and optimizer state."""

    step: int = 0
    """Updates applied."""
    cursor: int = 0
    """Windows consumed; decides every batch to come."""
    tokens: int = 0
    """Tokens trained on."""
    elapsed_s: float = 0.0
    """Seconds of training so far, over all sittings."""
    train_time_s: float = 0.0
    """Of these, seconds spent in updates."""
    loss_ema: float | None = None
    """Running mean of the loss, alpha 0.01 [nats/token]."""
    best_loss: float | None = None
    """Best validation loss so far [nats/token]."""
    best_step: int = 0
    """Where it was reached."""
    n_worse: int = 0
    """Evaluations since then."""
    n_refused: int = 0
    """Updates refused in a row."""
    losses: tuple[float, ...] = ()
    """Of the last accepted updates, where spikes are looked for [nats/token]."""
    grad_norms: tuple[float, ...] = ()
    """Likewise."""
    loss_scale: float = FIRST_SCALE
    """What FP16 losses are multiplied by."""
    n_scaled: int = 0
    """Updates without overflow since it changed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint, in memory."""

    path: Path
    state: TrainState
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    run: RunDir,
    state: TrainState,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Write a checkpoint and make it the latest.

    Args:
        run: the run directory; `checkpoints/` is made if absent.
        state: step and counters; `state.step` names the checkpoint.
        model: parameters by name.
        optimizer: `optim.optimizers.optimizer_tensors`.
        facts: what else to keep, JSON values (fingerprints of tokenizer and data).

    Raises:
        CheckpointError: it could not be written (disk full, no permission); older checkpoints are untouched.
    """
    name, temporary = f"step-{state.step:08d}", None
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=run.checkpoints, prefix=".writing-"))
        _write_files(temporary, state, model=model, optimizer=optimizer, facts=facts)
        target = run.checkpoints / name
        if target.exists():  # left by a run that was killed between here and naming it in `latest`
            shutil.rmtree(target)
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
        sync_directory(run.checkpoints)
        write_text(run.checkpoints / "latest", name + "\n")
        sync_directory(run.checkpoints)
    except (OSError, safetensors.SafetensorError) as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{run.checkpoints / name}: could not be written ({error}); earlier checkpoints are untouched; "
            "free some space or mend the disk"
        ) from error
    return target


def mark_best(run: RunDir, step: int) -> None:
    """Name the checkpoint of `step` as the best one.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_text(run.checkpoints / "best", f"step-{step:08d}\n")
    except OSError as error:
        raise CheckpointError(f"{run.checkpoints / 'best'}: cannot be written ({error}); check the disk") from error


def prune_checkpoints(run: RunDir, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, the best and the last written, and what a crash left half-written.

    The last written is not the newest where a newer one could not be read.
    """
    named = {_named(run, "best"), _named(run, "latest")}
    for path in checkpoint_paths(run)[keep:]:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)
    for path in run.checkpoints.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_paths(run: RunDir) -> list[Path]:
    """The checkpoints that were named, newest first, unverified: one without its manifest is damaged, not absent."""
    return sorted((p for p in run.checkpoints.glob("step-*") if p.is_dir()), key=lambda p: p.name, reverse=True)


def load_latest(run: RunDir, *, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that can be trusted; None when there are none at all.

    Args:
        run: the run directory.
        notice: told about every damaged checkpoint, which is renamed to `damaged-…`, and about every one that could
            not be read, which is left as it is.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
        VersionError: the newest sound one is a newer smalllm's; it is left where it is.
    """
    paths = checkpoint_paths(run)
    unusable: list[str] = []
    for path in paths:
        try:
            return load_checkpoint(path)
        except VersionError:
            raise
        except UnreadableError as error:
            unusable.append(str(error))
            notice(f"{error}; it stays as it is, looking for an older one")
        except CheckpointError as error:
            unusable.append(str(error))
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            notice(f"{error}; set aside as {aside.name}, looking for an older one")
    if unusable:
        raise CheckpointError(f"{run.checkpoints}: no checkpoint can be used:\n" + "\n".join(unusable))
    if set_aside := sorted(run.checkpoints.glob("damaged-*")):
        raise CheckpointError(
            f"{run.checkpoints}: every checkpoint was damaged and set aside, {set_aside[-1].name} last; restore one "
            "under its own name, or start anew with another --out"
        )
    return None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that RUN means: `path` itself, or a run directory's best, else its latest.

    Raises:
        CheckpointError: nothing of the kind is there.
    """
    if (path / "state.json").exists():
        return path
    run = RunDir(path)
    for pointer in ("best", "latest"):
        name = _named(run, pointer)
        if name and (run.checkpoints / name / "manifest.json").exists():
            return run.checkpoints / name
    found = checkpoint_paths(run)
    if found:
        return found[0]
    what = "a run without a checkpoint yet" if run.config.exists() else "neither a run directory nor a checkpoint"
    raise CheckpointError(f"{path}: {what}; give the directory that `smalllm train` wrote with --out")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify every byte of it against its manifest.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or was written by a newer smalllm.
        UnreadableError: the system did not let a file be read.
    """
    manifest = read_manifest(path)
    for name in _FILES:
        verify_file(path / name, manifest["files"].get(name))
    try:
        with reading(path):
            kept = json.loads((path / "state.json").read_text(encoding="utf-8"))
            model = safetensors.torch.load_file(path / "model.safetensors")
            optimizer = safetensors.torch.load_file(path / "optimizer.safetensors")
        known = {f.name for f in fields(TrainState)}
        found = {key: value for key, value in kept["state"].items() if key in known}
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
        state = TrainState(**values)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return Checkpoint(path=path, state=state, model=model, optimizer=optimizer, facts=kept["facts"])


def copy_parameters(model: torch.nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy loaded tensors into a model's own parameters (mapped files are unaligned, which can change kernels).

    Raises:
        CheckpointError: names or shapes differ.
    """
    parameters = dict(model.named_parameters())
    missing, extra = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or extra:
        raise CheckpointError(
            f"{where}: does not hold this model: missing {missing or 'nothing'}, unknown {extra or 'nothing'}"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model wants {tuple(parameter.shape)}"
            )
        with torch.no_grad():
            local(parameter).copy_(part_of(tensors[name], parameter))


def _rounded(state: TrainState) -> TrainState:
    """The state with its clocks rounded to milliseconds, for a readable file."""
    return replace(state, elapsed_s=round(state.elapsed_s, 3), train_time_s=round(state.train_time_s, 3))


def _write_files(
    directory: Path,
    state: TrainState,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    safetensors.torch.save_file(_portable(model), directory / "model.safetensors", metadata={"format": "pt"})
    safetensors.torch.save_file(_portable(optimizer), directory / "optimizer.safetensors")
    kept = {"state": asdict(_rounded(state)), "facts": dict(facts)}
    (directory / "state.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "files": {
            name: {"bytes": (directory / name).stat().st_size, "sha256": sha256_of(directory / name)} for name in _FILES
        },
    }
    for name in _FILES:
        sync_file(directory / name)
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync_file(directory / "manifest.json")
    sync_directory(directory)


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _named(run: RunDir, pointer: str) -> str | None:
    with contextlib.suppress(OSError):
        return (run.checkpoints / pointer).read_text(encoding="utf-8").strip()
    return None
