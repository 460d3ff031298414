"""A trained run, loaded: its model, tokenizer and configuration."""

from dataclasses import dataclass
from pathlib import Path

from smalllm import runtime
from smalllm.checkpoint import TrainState, copy_parameters, find_checkpoint, load_checkpoint
from smalllm.config import DeviceChoice, Precision, RunConfig
from smalllm.errors import CheckpointError, RunError
from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer
from smalllm.recipes import load_recipe
from smalllm.rundir import RunDir
from smalllm.tokenizers import load_tokenizer


@dataclass(frozen=True, slots=True)
class Run:
    """What RUN on the command line stands for.

    Attributes:
        dir: the run directory.
        checkpoint: the checkpoint that was loaded.
        config: the run's resolved configuration.
        state: step and counters of the checkpoint.
        model: on `device`, in evaluation mode: `model(token_ids) -> logits [B T V]`.
        tokenizer: text to ids and back.
        device: cpu, cuda or mps.
        precision: for matrix products on this device.
    """

    dir: RunDir
    checkpoint: Path
    config: RunConfig
    state: TrainState
    model: GPT
    tokenizer: Tokenizer
    device: str
    precision: str


def load_run(path: str | Path, *, device: DeviceChoice = "auto", precision: Precision = "auto") -> Run:
    """Load a run directory (its best checkpoint, else the latest) or one checkpoint.

    Args:
        path: the directory.
        device: where to put the model.
        precision: of its matrix products; "auto": the run's own on the kind of device it was trained on, so that
            what is measured is what was trained; elsewhere bf16 where the device has it.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
        RunError: the run's configuration is missing.
        TokenizerError: the run's tokenizer is missing, altered, or not the one it was trained with.
        ConfigError: the device is not there.
    """
    checkpoint = find_checkpoint(Path(path))
    run = RunDir(checkpoint.parent.parent)
    if not run.config.exists():
        raise RunError(f"{run.config}: missing; a checkpoint is read together with the run directory around it")
    config = load_recipe(str(run.config))
    loaded = load_checkpoint(checkpoint)
    tokenizer = load_tokenizer(run.tokenizer)
    check_tokenizer(tokenizer, loaded.facts.get("tokenizer"), where=str(checkpoint))
    model = GPT(config.model, vocab_size=tokenizer.vocab_size)
    copy_parameters(model, loaded.model, where=str(checkpoint))
    device = runtime.pick_device(device)
    if precision == "auto" and device == config.train.device:
        precision = config.train.precision
    precision = runtime.pick_precision(precision, device)
    runtime.use_products(precision, device)
    return Run(
        dir=run,
        checkpoint=checkpoint,
        config=config,
        state=loaded.state,
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        device=device,
        precision=precision,
    )


def check_tokenizer(tokenizer: Tokenizer, expected: object, *, where: str) -> None:
    """Refuse a tokenizer that is not the one something was made with.

    Raises:
        CheckpointError: the fingerprints differ; the message names both.
    """
    if tokenizer.fingerprint != expected:
        raise CheckpointError(
            f"{where}: made with tokenizer {expected}, but the tokenizer here is {tokenizer.kind} "
            f"{tokenizer.fingerprint}; they must be the same: restore the one it was trained with"
        )
