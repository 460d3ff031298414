"""All that one sitting of a run works with, from the data to the compiled model: everything before the first step."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.api.batches import grad_accum_steps, make_batches, open_feed
from smalllm.api.building import attention_kernel, build_model, loss_of
from smalllm.api.data import check_asked_text, data_path, load_data, training_windows
from smalllm.api.fitting import fits_here, shrinker
from smalllm.api.foreign import configured_tokenizer
from smalllm.api.origin import origin_facts
from smalllm.api.preparation import prepare
from smalllm.api.resume import check_asked_tokenizer, check_facts, facts_of, length_facts
from smalllm.api.scores import Exam
from smalllm.api.together import fit_to_ranks, load_same
from smalllm.checkpoint import Checkpoint, TrainState, checkpoint_paths, mark_best
from smalllm.config import RunConfig
from smalllm.data.feed import FeedBatches
from smalllm.data.manifest import MANIFEST_NAME, Manifest
from smalllm.data.shards import verify_shards
from smalllm.data.windows import Windows
from smalllm.errors import DataError
from smalllm.model.count import flops_per_token
from smalllm.model.gpt import GPT
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors
from smalllm.protocols import Progress, Tokenizer
from smalllm.recipes import save_config
from smalllm.recipes.resolve import Machine, resolve, resolve_minutes
from smalllm.run import Run, check_tokenizer
from smalllm.rundir import RunDir, rewind_jsonl, write_json
from smalllm.tokenizers import load_tokenizer, save_tokenizer
from smalllm.training.distributed import ALONE, Ranks, arranged
from smalllm.training.memory import shrinking
from smalllm.training.parallel import is_divided
from smalllm.training.step import LossFunction
from smalllm.training.warmup import compile_failure, failure_on_any, time_update

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
    ranks: Ranks

    @property
    def is_complete(self) -> bool:
        config, state = self.config.train, self.state
        out_of_patience = bool(config.patience) and state.n_worse >= config.patience
        is_over = out_of_patience or (config.max_steps is not None and state.step >= config.max_steps)
        return is_over and config.max_minutes is None  # which are turned into steps first


def sit_down(
    run: RunDir,
    config: RunConfig,
    origin: Run | None,
    *,
    stored: bool,
    changes: Mapping[str, Any],
    command: str,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> Sitting:
    """Everything up to the first step: data, model, state, compiled function, final configuration."""
    began_at = time.monotonic()
    data = data_path(config)
    if config.data.mode == "stream" and not (data / MANIFEST_NAME).exists():
        if ranks.is_first:
            prepare(config, out=data, progress=progress)
        ranks.from_first(None)  # the others wait
    manifest, tokenizer = load_data(
        data, command=command, data=config.data, tokenizer=lambda: _tokenizer_of(run, config, origin), progress=progress
    )
    n_tokens = sum(f.tokens for split in manifest.splits.values() for f in split.files)
    if ranks.is_first and manifest.layouts is None and 2 * n_tokens <= _VERIFY_BYTES:
        verify_shards(data, manifest)
    check_asked_tokenizer(config, manifest, changes)
    check_asked_text(config.data, manifest, {} if stored else changes, where=data)
    loaded = load_same(run, ranks, progress=progress)
    if loaded is not None:
        check_facts(run, loaded, facts_of(manifest, tokenizer))
    if config.data.mode == "shards" and manifest.source.get("mode") == "stream":
        raise DataError(
            f"{data}: was prepared for data.mode = stream and holds only the head of the training text; "
            "train with --data.mode stream, or prepare shards in another directory (--data.path)"
        )
    windows = training_windows(config, data, manifest, progress=progress)
    config, notices = fit_to_ranks(run, config, ranks, stored=stored, changes=changes)
    for notice in notices:
        progress.say(notice)
    config, environment, ranks = _resolved(config, manifest, windows, progress, ranks)
    environment |= origin_facts(run, config, origin) | length_facts(run, changes)
    model, optimizers, state = build_model(config, tokenizer, loaded, origin, ranks)
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
        loss_function=loss_of(config, tokenizer, ranks, compile_it=bool(config.train.compile)),
        environment=environment,
        ranks=ranks,
    )
    if not sitting.is_complete:
        kept = loaded.facts.get("stream") if loaded else None
        sitting.feed = open_feed(
            sitting.config, manifest, tokenizer, ranks, kept=kept, cursor=state.cursor, progress=progress
        )
        _warm_up(sitting, loaded, origin, began_at=began_at, progress=progress)
    if ranks.is_first:
        _write_down(sitting, is_new=not stored or bool(changes or notices) or sitting.config != config)
    return sitting


def _write_down(sitting: Sitting, *, is_new: bool) -> None:
    """Bring the files of the run to where it stands."""
    run, state = sitting.run, sitting.state
    if is_new:
        save_config(sitting.config, run.config)
    write_json(run.environment, sitting.environment)
    save_tokenizer(sitting.tokenizer, run.tokenizer)
    rewind_jsonl(run.metrics, step=state.step)
    rewind_jsonl(run.samples, step=state.step)
    if state.best_step == state.step and state.step:
        mark_best(run, state.step)


def _tokenizer_of(run: RunDir, config: RunConfig, origin: Run | None) -> Tokenizer:
    """For shards that record none: the run's own once it has a checkpoint, else the configured one."""
    if checkpoint_paths(run):
        return load_tokenizer(run.tokenizer)
    tokenizer = configured_tokenizer(config.tokenizer)
    if origin is not None:
        check_tokenizer(tokenizer, origin.tokenizer.fingerprint, where=str(origin.checkpoint))
    return tokenizer


def _resolved(
    config: RunConfig, manifest: Manifest, windows: Windows, progress: Progress, ranks: Ranks
) -> tuple[RunConfig, dict[str, Any], Ranks]:
    device = ranks.from_first(runtime.pick_device(config.train.device))
    ranks = arranged(ranks, device=device, n_tensor=config.train.tensor_parallel)
    precision = runtime.pick_precision(config.train.precision, device)
    lacking = failure_on_any(runtime.missing_compiler(device) or "", ranks)
    if lacking and config.train.compile is not False:
        progress.say(f"running uncompiled, about half as fast: {lacking}")
        config = replace(config, train=replace(config.train, compile=False))
    threads = config.train.threads or max(1, runtime.n_physical_cores() // ranks.n_local)
    runtime.configure(threads=threads, precision=precision)
    environment = ranks.from_first(runtime.environment(device) if ranks.is_first else None)
    environment["processes"] = ranks.n
    vocab_size = manifest.tokenizer.vocab_size
    fits = fits_here(config, vocab_size=vocab_size, device=device, ranks=ranks)
    resolved, notices = resolve(
        config,
        Machine(
            device=device,
            precision=precision,
            can_compile=not lacking,
            threads=threads,
            peak_flops=environment["peak_flops"] * ranks.n,
            n_data_ranks=ranks.n_data,
        ),
        vocab_size=vocab_size,
        train_tokens=windows.n_tokens,
        flops_per_token=flops_per_token(config.model, vocab_size=vocab_size),
        fill=windows.n_tokens / (windows.n * config.model.context_length),
        fits=fits,
    )
    environment["attention_kernel"] = attention_kernel(resolved)
    for notice in notices:
        progress.say(notice)
    if config.train.micro_batch_size == "auto" and not fits(resolved.train):
        progress.say(
            f"WARNING: this run is expected to need more memory than {config.train.memory or 'is free'}, even "
            f"with {resolved.train.micro_batch_size} sequence at a time; smalllm plan shows where it goes"
        )
    return ranks.config_from_first(resolved), environment, ranks


def _uncompile(sitting: Sitting, loaded: Checkpoint | None, origin: Run | None) -> None:
    """Go on without the compiler. A divided model is built anew: a pass that failed half-way leaves fsdp in the middle
    of it, and the gradients after it would be wrong.
    """
    sitting.config = replace(sitting.config, train=replace(sitting.config.train, compile=False))
    sitting.loss_function = loss_of(sitting.config, sitting.tokenizer, sitting.ranks, compile_it=False)
    sitting.environment["attention_kernel"] = attention_kernel(sitting.config)
    if is_divided(sitting.ranks, sitting.config.train.parallel):
        sitting.optimizers.clear()
        built = build_model(sitting.config, sitting.tokenizer, loaded, origin, sitting.ranks)
        sitting.model, sitting.optimizers, _ = built


def _warm_up(
    sitting: Sitting, loaded: Checkpoint | None, origin: Run | None, *, began_at: float, progress: Progress
) -> None:
    """Compile, and turn minutes into steps; neither leaves a trace in weights or optimizer state."""
    shrink, ranks = shrinker(sitting, progress), sitting.ranks

    def first_batch() -> tuple[Tensor, Tensor]:
        return make_batches(sitting.config, sitting.windows, sitting.feed, ranks)(sitting.state.cursor)[0]

    def compile_it() -> str:
        return compile_failure(sitting.model, sitting.loss_function, first_batch())

    if sitting.config.train.compile:
        progress.say("compiling the model; this takes up to a minute, once")
        # Blocks of a divided model wait for those of other ranks: one that cannot compile must say so before.
        divided = is_divided(ranks, sitting.config.train.parallel)
        failed = failure_on_any(runtime.broken_compiler(sitting.config.train.device) if divided else "", ranks)
        if not failed:
            failed = failure_on_any(shrinking(compile_it, shrink), ranks)
        if failed:
            progress.say(f"running uncompiled: torch.compile failed here ({failed})")
            _uncompile(sitting, loaded, origin)
    config = sitting.config
    if config.train.max_minutes is not None:
        sitting.optimizers = build_optimizers(sitting.model, config.optim)
        step_time_s = shrinking(
            lambda: time_update(
                sitting.model,
                sitting.optimizers,
                sitting.loss_function,
                first_batch(),
                grad_accum_steps=grad_accum_steps(sitting.config, ranks),
                device=config.train.device,
                ranks=ranks,
            ),
            shrink,
        )
        config = sitting.config
        step_time_s, spent_s = ranks.from_first([step_time_s, time.monotonic() - began_at])
        config, notices = resolve_minutes(
            config,
            step_time_s=step_time_s,
            spent_s=spent_s,
            done_steps=sitting.state.step,
        )
        for notice in [f"{step_time_s:.3g} s an update: {config.train.max_steps:,} steps", *notices]:
            progress.say(notice)
        sitting.optimizers = build_optimizers(sitting.model, config.optim)
        if loaded is not None:
            load_optimizer_tensors(sitting.optimizers, loaded.optimizer)
    sitting.config = config
