"""`train`: one run from its configuration to its report. Wires data, model, loop, evaluation and files together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.api.data import data_path, load_data, prepare_command
from smalllm.api.finish import finish_run
from smalllm.api.resume import check_facts, facts_of, opened_config
from smalllm.api.scores import Exam
from smalllm.checkpoint import (
    Checkpoint,
    TrainState,
    checkpoint_paths,
    copy_parameters,
    load_latest,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
)
from smalllm.config import RunConfig
from smalllm.data.batches import micro_batch_ids, n_windows, read_windows
from smalllm.data.manifest import Manifest
from smalllm.data.shards import TokenStream, open_split, verify_shards
from smalllm.errors import CheckpointError, RunError
from smalllm.generation.engine import generate_tokens
from smalllm.generation.sampling import SamplingConfig
from smalllm.model.count import flops_per_token
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.recipes import save_config
from smalllm.recipes.resolve import Machine, resolve, resolve_minutes
from smalllm.rundir import RunDir, append_jsonl, locked, rewind_jsonl, write_json
from smalllm.tokenizers import save_tokenizer
from smalllm.training.loop import Outcome, Parts, run_loop
from smalllm.training.step import LossFunction, make_loss_function
from smalllm.training.warmup import run_once, time_update

_VERIFY_BYTES = 2 << 30  # shards up to this size are hashed at every start; larger ones have their sizes checked
_SAMPLE_TOKENS = 200


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model, evaluate it, and write its report.

    Args:
        config: what to do, the user's changes included.
        out: the run directory; absent: `runs/RECIPE`.
        resume: continue the run in `out`; starts it if there is none, returns at once if it is complete.
        changes: the dotted fields that the user asked for; on a resume they are applied to the stored configuration.
        name: the recipe's name or path, for the command that an error names; absent: `config.recipe`.
        progress: who is told how it goes.

    Returns:
        What `result.json` holds. A run stopped by a signal is saved and has the key "stopped".

    Raises:
        ConfigError: the configuration has problems, or a resume may not change a field.
        RunError: `out` holds another run, or another process is writing it.
        DataError, TokenizerError, CheckpointError, NonFiniteError: see `errors`.
    """
    run, progress = RunDir(out or Path("runs") / config.recipe), progress or Silent()
    with locked(run):
        if run.config.exists() and not resume:
            raise RunError(f"{run.path}: holds a run already; continue it with --resume, or choose another --out")
        config, stored = opened_config(run, config, changes or {})
        command = prepare_command(config, name=str(run.config) if stored else name or config.recipe)
        sitting = _sit_down(run, config, stored=stored, changes=changes or {}, command=command, progress=progress)
        if sitting.is_complete and run.result.exists():
            progress.say(f"{run.path}: complete at step {sitting.state.step:,}")
        else:
            run.result.unlink(missing_ok=True)  # of a shorter run that now goes on
            outcome = _train(sitting, progress)
            if outcome.reason not in ("complete", "patience"):
                return {"stopped": outcome.reason, "steps": outcome.state.step, "run": str(run.path)}
        return finish_run(run, sitting.data, sitting.manifest, progress=progress)


@dataclass(slots=True)
class _Sitting:
    """All that one sitting of a run works with."""

    run: RunDir
    config: RunConfig
    data: Path
    manifest: Manifest
    tokenizer: Tokenizer
    stream: TokenStream
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


def _sit_down(
    run: RunDir, config: RunConfig, *, stored: bool, changes: Mapping[str, Any], command: str, progress: Progress
) -> _Sitting:
    """Everything up to the first step: data, model, state, compiled function, final configuration."""
    began_at = time.monotonic()
    data = data_path(config)
    manifest, tokenizer = load_data(data, command=command)
    if sum(f.tokens for split in manifest.splits.values() for f in split.files) * 2 <= _VERIFY_BYTES:
        verify_shards(data, manifest)
    loaded = load_latest(run, notice=progress.say)
    if loaded is not None:
        check_facts(run, loaded, facts_of(manifest, tokenizer))
    config, environment = _resolved(config, manifest, progress)
    model, optimizers, state = _build(config, tokenizer, loaded)
    stream = open_split(data, manifest, "train")
    n_windows(stream.n_tokens, config.model.context_length)
    sitting = _Sitting(
        run=run,
        config=config,
        data=data,
        manifest=manifest,
        tokenizer=tokenizer,
        stream=stream,
        exam=Exam(data, manifest, tokenizer, config, max_tokens=config.eval.tokens),
        model=model,
        optimizers=optimizers,
        state=state,
        loss_function=make_loss_function(
            config.train.device, config.train.precision, compile_it=bool(config.train.compile)
        ),
        environment=environment,
    )
    if not sitting.is_complete:
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


def _resolved(config: RunConfig, manifest: Manifest, progress: Progress) -> tuple[RunConfig, dict[str, Any]]:
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
        train_tokens=manifest.splits["train"].tokens,
        flops_per_token=flops_per_token(config.model, vocab_size=vocab_size),
    )
    for notice in notices:
        progress.say(notice)
    return resolved, environment


def _build(
    config: RunConfig, tokenizer: Tokenizer, loaded: Checkpoint | None
) -> tuple[GPT, list[Optimizer], TrainState]:
    model = GPT(config.model, vocab_size=tokenizer.vocab_size)
    if loaded is None:
        init_weights(model, seed=config.train.seed)
    else:
        copy_parameters(model, loaded.model, where=str(loaded.path))
    model.to(config.train.device)
    optimizers = build_optimizers(model, config.optim)
    if loaded is not None:
        load_optimizer_tensors(optimizers, loaded.optimizer)
    return model, optimizers, loaded.state if loaded else TrainState()


def _warm_up(sitting: _Sitting, loaded: Checkpoint | None, *, began_at: float, progress: Progress) -> None:
    """Compile, and turn minutes into steps; neither leaves a trace in weights or optimizer state."""
    config = sitting.config
    batch = _batches(sitting)(sitting.state.cursor)[0]
    if config.train.compile:
        progress.say("compiling the model; this takes up to a minute, once")
        try:
            run_once(sitting.model, sitting.loss_function, batch)
        except Exception as error:  # the compiler is a program of its own, with failures of its own
            progress.say(f"running uncompiled: torch.compile failed here ({str(error).splitlines()[0][:200]})")
            config = replace(config, train=replace(config.train, compile=False))
            sitting.loss_function = make_loss_function(config.train.device, config.train.precision, compile_it=False)
    if config.train.max_minutes is not None:
        sitting.optimizers = build_optimizers(sitting.model, config.optim)
        step_time_s = time_update(
            sitting.model,
            sitting.optimizers,
            sitting.loss_function,
            batch,
            grad_accum_steps=_grad_accum_steps(config),
            device=config.train.device,
        )
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


def _train(sitting: _Sitting, progress: Progress) -> Outcome:
    run, config = sitting.run, sitting.config
    facts = facts_of(sitting.manifest, sitting.tokenizer)

    def save(state: TrainState, is_best: bool) -> None:
        try:
            save_checkpoint(
                run,
                state,
                model=dict(sitting.model.named_parameters()),
                optimizer=optimizer_tensors(sitting.optimizers),
                facts=facts,
            )
        except CheckpointError as error:
            if state.step >= (config.train.max_steps or 0) or not checkpoint_paths(run):
                raise
            progress.say(f"WARNING: {error}; training goes on and will try again")
            return
        if is_best:
            mark_best(run, state.step)
        prune_checkpoints(run, keep=config.train.keep_checkpoints)

    def row(values: Mapping[str, Any]) -> None:
        append_jsonl(run.metrics, values)
        progress.row(values)

    parts = Parts(
        loss_function=sitting.loss_function,
        batches=_batches(sitting),
        evaluate=lambda: sitting.exam.score(
            sitting.model, device=config.train.device, precision=config.train.precision
        ).measures(),
        sample=lambda step: _sample(sitting, step, progress),
        save=save,
        row=row,
        flops_per_step=config.train.tokens_per_step
        * flops_per_token(config.model, vocab_size=sitting.tokenizer.vocab_size),
        peak_flops=sitting.environment["peak_flops"],
    )
    progress.begin(f"training {run.path}", total=config.train.max_steps or 0, done=sitting.state.step)
    try:
        return run_loop(sitting.model, sitting.optimizers, config, sitting.state, parts)
    finally:
        progress.end()


def _batches(sitting: _Sitting) -> Any:
    """Cursor -> micro-batches, read from the shards onto the device."""
    config, stream = sitting.config, sitting.stream
    context, size = config.model.context_length, config.train.micro_batch_size or 1
    total = n_windows(stream.n_tokens, context)

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
                n_windows=total,
            )
            rows = torch.from_numpy(read_windows(stream, ids, context)).to(config.train.device)
            micro_batches.append((rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))
        return micro_batches

    return batches


def _grad_accum_steps(config: RunConfig) -> int:
    return config.train.tokens_per_step // (config.model.context_length * (config.train.micro_batch_size or 1))


def _sample(sitting: _Sitting, step: int, progress: Progress) -> None:
    config, tokenizer = sitting.config, sitting.tokenizer
    for prompt in config.eval.sample_prompts:
        made = generate_tokens(
            sitting.model,
            tokenizer.encode(prompt),
            SamplingConfig(temperature=0.8, top_p=0.9, max_tokens=_SAMPLE_TOKENS, seed=step),
            eos_id=tokenizer.eos_id,
            device=config.train.device,
            precision=config.train.precision,
        )[0]
        text = tokenizer.decode(made.token_ids)
        append_jsonl(sitting.run.samples, {"step": step, "prompt": prompt, "text": text})
        progress.say(f"sample at step {step:,}: {prompt}{text}")
