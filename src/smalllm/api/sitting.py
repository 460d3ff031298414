"""All that one sitting of a run works with, from the data to the compiled model: everything before the first step."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.api.data import data_path, load_data, training_windows
from smalllm.api.fitting import fits_here, shrinker
from smalllm.api.foreign import configured_tokenizer
from smalllm.api.origin import copy_weights, origin_facts
from smalllm.api.preparation import prepare
from smalllm.api.resume import check_asked_tokenizer, check_facts, facts_of
from smalllm.api.scores import Exam
from smalllm.api.stream import open_batches
from smalllm.checkpoint import Checkpoint, TrainState, checkpoint_paths, copy_parameters, load_latest, mark_best
from smalllm.config import RunConfig
from smalllm.data.batches import micro_batch_ids
from smalllm.data.feed import FeedBatches
from smalllm.data.manifest import MANIFEST_NAME, Manifest
from smalllm.data.shards import verify_shards
from smalllm.data.windows import Windows
from smalllm.errors import DataError, DeviceMemoryError
from smalllm.model.count import flops_per_token
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors
from smalllm.protocols import Progress, Tokenizer
from smalllm.recipes import save_config
from smalllm.recipes.resolve import Machine, micro_batch_size, resolve, resolve_minutes
from smalllm.run import Run, check_tokenizer
from smalllm.rundir import RunDir, rewind_jsonl, write_json
from smalllm.tokenizers import load_tokenizer, save_tokenizer
from smalllm.training.memory import shrinking
from smalllm.training.step import LossFunction, make_loss_function
from smalllm.training.warmup import run_once, time_update

_MOST_ENCODERS = 4  # threads that encode a stream; each is several times as fast as a small model trains
_VERIFY_BYTES = 2 << 30  # shards up to this size are hashed at every start; larger ones have their sizes checked


@dataclass(slots=True)
class Sitting:
    """All that one sitting of a run works with."""

    run: RunDir
    config: RunConfig
    data: Path
    manifest: Manifest
    tokenizer: Tokenizer
    windows: Windows
    feed: FeedBatches | None
    exam: Exam
    model: GPT
    optimizers: list[Optimizer]
    state: TrainState
    loss_function: LossFunction
    environment: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        config, state = self.config.train, self.state
        out_of_patience = bool(config.patience) and state.n_worse >= config.patience
        return out_of_patience or (config.max_steps is not None and state.step >= config.max_steps)


def sit_down(
    run: RunDir,
    config: RunConfig,
    origin: Run | None,
    *,
    stored: bool,
    changes: Mapping[str, Any],
    command: str,
    progress: Progress,
) -> Sitting:
    """Everything up to the first step: data, model, state, compiled function, final configuration."""
    began_at = time.monotonic()
    data = data_path(config)
    if config.data.mode == "stream" and not (data / MANIFEST_NAME).exists():
        prepare(config, out=data, progress=progress)
    manifest, tokenizer = load_data(
        data, command=command, data=config.data, tokenizer=lambda: _tokenizer_of(run, config, origin), progress=progress
    )
    n_tokens = sum(f.tokens for split in manifest.splits.values() for f in split.files)
    if manifest.layouts is None and 2 * n_tokens <= _VERIFY_BYTES:
        verify_shards(data, manifest)
    check_asked_tokenizer(config, manifest, changes)
    loaded = load_latest(run, notice=progress.say)
    if loaded is not None:
        check_facts(run, loaded, facts_of(manifest, tokenizer))
    if config.data.mode == "shards" and manifest.source.get("mode") == "stream":
        raise DataError(
            f"{data}: was prepared for data.mode = stream and holds only the head of the training text; "
            "train with --data.mode stream, or prepare shards in another directory (--data.path)"
        )
    windows = training_windows(config, data, manifest, progress=progress)
    config, environment = _resolved(config, manifest, windows, progress)
    environment |= origin_facts(run, config, origin)
    model, optimizers, state = _build(config, tokenizer, loaded, origin)
    sitting = Sitting(
        run=run,
        config=config,
        data=data,
        manifest=manifest,
        tokenizer=tokenizer,
        windows=windows,
        feed=None,
        exam=Exam(data, manifest, tokenizer, config, max_tokens=config.eval.tokens),
        model=model,
        optimizers=optimizers,
        state=state,
        loss_function=_loss_function(config, tokenizer, compile_it=bool(config.train.compile)),
        environment=environment,
    )
    if not sitting.is_complete:
        sitting.feed = _open_feed(sitting, loaded, progress)
        _warm_up(sitting, loaded, began_at=began_at, progress=progress)
    if not stored or changes or sitting.config != config:
        save_config(sitting.config, run.config)
    write_json(run.environment, sitting.environment)
    save_tokenizer(tokenizer, run.tokenizer)
    rewind_jsonl(run.metrics, step=state.step)
    rewind_jsonl(run.samples, step=state.step)
    if state.best_step == state.step and state.step:
        mark_best(run, state.step)
    return sitting


def _tokenizer_of(run: RunDir, config: RunConfig, origin: Run | None) -> Tokenizer:
    """For shards that record none: the run's own once it has a checkpoint, else the configured one."""
    if checkpoint_paths(run):
        return load_tokenizer(run.tokenizer)
    tokenizer = configured_tokenizer(config.tokenizer)
    if origin is not None:
        check_tokenizer(tokenizer, origin.tokenizer.fingerprint, where=str(origin.checkpoint))
    return tokenizer


def _loss_function(config: RunConfig, tokenizer: Tokenizer, *, compile_it: bool) -> LossFunction:
    eos_id = tokenizer.eos_id if config.data.document_mask else None
    return make_loss_function(config.train.device, config.train.precision, compile_it=compile_it, eos_id=eos_id)


def _resolved(
    config: RunConfig, manifest: Manifest, windows: Windows, progress: Progress
) -> tuple[RunConfig, dict[str, Any]]:
    device = runtime.pick_device(config.train.device)
    precision = runtime.pick_precision(config.train.precision, device)
    lacking = runtime.missing_compiler(device)
    if lacking and config.train.compile is not False:
        progress.say(f"running uncompiled, about half as fast: {lacking}")
        config = replace(config, train=replace(config.train, compile=False))
    threads = config.train.threads or runtime.n_physical_cores()
    runtime.configure(threads=threads, precision=precision)
    environment = runtime.environment(device)
    vocab_size = manifest.tokenizer.vocab_size
    resolved, notices = resolve(
        config,
        Machine(
            device=device,
            precision=precision,
            can_compile=not lacking,
            threads=threads,
            peak_flops=environment["peak_flops"],
        ),
        vocab_size=vocab_size,
        train_tokens=windows.n_tokens,
        flops_per_token=flops_per_token(config.model, vocab_size=vocab_size),
        fill=windows.n_tokens / (windows.n * config.model.context_length),
        fits=fits_here(config, vocab_size=vocab_size, device=device),
    )
    for notice in notices:
        progress.say(notice)
    return resolved, environment


def _build(
    config: RunConfig, tokenizer: Tokenizer, loaded: Checkpoint | None, origin: Run | None
) -> tuple[GPT, list[Optimizer], TrainState]:
    model = GPT(config.model, vocab_size=tokenizer.vocab_size)
    if loaded is not None:
        copy_parameters(model, loaded.model, where=str(loaded.path))
    elif origin is not None:
        copy_weights(model, origin)
    else:
        init_weights(model, seed=config.train.seed)
    model.to(config.train.device)
    optimizers = build_optimizers(model, config.optim)
    if loaded is not None:
        load_optimizer_tensors(optimizers, loaded.optimizer)
    return model, optimizers, loaded.state if loaded else TrainState()


def _open_feed(sitting: Sitting, loaded: Checkpoint | None, progress: Progress) -> FeedBatches | None:
    """The stream from where the run stands; None where the data are shards."""
    if sitting.config.data.mode == "shards":
        return None
    return open_batches(
        sitting.config,
        sitting.manifest,
        sitting.tokenizer,
        n_workers=sitting.config.data.workers or min(_MOST_ENCODERS, runtime.n_physical_cores()),
        kept=loaded.facts["stream"] if loaded else None,
        cursor=sitting.state.cursor,
        notice=progress.say,
    )


def _warm_up(sitting: Sitting, loaded: Checkpoint | None, *, began_at: float, progress: Progress) -> None:
    """Compile, and turn minutes into steps; neither leaves a trace in weights or optimizer state."""
    shrink = shrinker(sitting, progress)

    def first_batch() -> tuple[Tensor, Tensor]:
        return make_batches(sitting)(sitting.state.cursor)[0]

    if sitting.config.train.compile:
        progress.say("compiling the model; this takes up to a minute, once")
        try:
            shrinking(lambda: run_once(sitting.model, sitting.loss_function, first_batch()), shrink)
        except DeviceMemoryError:
            raise
        except Exception as error:  # the compiler is a program of its own, with failures of its own
            progress.say(f"running uncompiled: torch.compile failed here ({str(error).splitlines()[0][:200]})")
            sitting.config = replace(sitting.config, train=replace(sitting.config.train, compile=False))
            sitting.loss_function = _loss_function(sitting.config, sitting.tokenizer, compile_it=False)
    config = sitting.config
    if config.train.max_minutes is not None:
        sitting.optimizers = build_optimizers(sitting.model, config.optim)
        step_time_s = shrinking(
            lambda: time_update(
                sitting.model,
                sitting.optimizers,
                sitting.loss_function,
                first_batch(),
                grad_accum_steps=_grad_accum_steps(sitting.config),
                device=config.train.device,
            ),
            shrink,
        )
        config = sitting.config
        config, notices = resolve_minutes(
            config,
            step_time_s=step_time_s,
            spent_s=time.monotonic() - began_at,
            done_steps=sitting.state.step,
        )
        for notice in [f"{step_time_s:.3g} s an update: {config.train.max_steps:,} steps", *notices]:
            progress.say(notice)
        sitting.optimizers = build_optimizers(sitting.model, config.optim)
        if loaded is not None:
            load_optimizer_tensors(sitting.optimizers, loaded.optimizer)
    sitting.config = config


def make_batches(sitting: Sitting) -> Callable[[int], Sequence[tuple[Tensor, Tensor]]]:
    """Cursor -> micro-batches, read from the shards or the stream onto the device."""
    config, windows, feed = sitting.config, sitting.windows, sitting.feed
    size = micro_batch_size(config)

    def on_device(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        moved = (torch.from_numpy(part).to(config.train.device) for part in (inputs, targets))
        first, second = (part.contiguous() for part in moved)
        return first, second

    if feed is not None:
        return lambda cursor: [
            on_device(rows[:, :-1], rows[:, 1:]) for rows in np.split(feed.rows(cursor), _grad_accum_steps(config))
        ]

    def batches(cursor: int) -> Sequence[tuple[Tensor, Tensor]]:
        micro_batches = []
        for micro_step in range(_grad_accum_steps(config)):
            ids = micro_batch_ids(
                config.train.seed,
                cursor,
                rank=0,
                n_ranks=1,
                micro_batch_size=size,
                micro_step=micro_step,
                n_windows=windows.n,
            )
            micro_batches.append(on_device(*windows.read(ids)))
        return micro_batches

    return batches


def _grad_accum_steps(config: RunConfig) -> int:
    return config.train.tokens_per_step // (config.model.context_length * micro_batch_size(config))
