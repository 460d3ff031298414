"""`train`: one run from its configuration to its report. Wires data, model, loop, evaluation and files together."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from smalllm.api.batches import make_batches
from smalllm.api.data import prepare_command
from smalllm.api.finish import finish_run
from smalllm.api.fitting import shrinker
from smalllm.api.one_batch import watch_one_batch
from smalllm.api.origin import adopt, check_data, data_command, lower_rates, open_origin
from smalllm.api.resume import facts_of, opened_config
from smalllm.api.sitting import Sitting, sit_down
from smalllm.api.stream import position_facts
from smalllm.api.tasks import open_tasks, score_sample
from smalllm.api.together import load_same, score_together
from smalllm.checkpoint import (
    TrainState,
    checkpoint_paths,
    copy_parameters,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
)
from smalllm.config import RunConfig
from smalllm.errors import CheckpointError, RunError
from smalllm.generation.engine import generate_tokens
from smalllm.generation.readers import weights_of
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.text import prompt_ids
from smalllm.model.count import flops_per_token
from smalllm.optim.optimizers import load_optimizer_tensors, optimizer_tensors
from smalllm.problems import check
from smalllm.protocols import Progress, Silent
from smalllm.rundir import RunDir, append_jsonl, is_other_rank, locked, rewind_jsonl
from smalllm.tracking.followers import Hear, following
from smalllm.tracking.names import check_installed
from smalllm.training.distributed import ALONE, Ranks, joined
from smalllm.training.loop import Outcome, Parts, run_loop
from smalllm.training.parallel import whole_model, whole_tensors

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
        changes: the dotted fields of `config` that the user asked for; on a resume they are applied to the stored
            configuration, and where `train.init_from` is among them, rates that are not become a tenth.
        name: the recipe's name or path, for the command that an error names; absent: `config.recipe`.
        progress: who is told how it goes.

    Returns:
        What `result.json` holds; nothing in ranks other than 0. A run stopped by a signal has the key "stopped", its
        "steps", and those of its last checkpoint, "saved_steps".

    Raises:
        ConfigError: the configuration has problems, or a field may not change: on a resume, or against
            `train.init_from`.
        RunError: `out` holds another run, or another process is writing it.
        DataError, TokenizerError, CheckpointError, NonFiniteError, RankError: see `errors`.
    """
    run, progress = RunDir(out or Path("runs") / config.recipe), progress or Silent()
    if is_other_rank():
        progress = Silent()
    with nullcontext() if is_other_rank() else locked(run), ExitStack() as stack:
        if run.config.exists() and not resume:
            raise RunError(f"{run.path}: holds a run already; continue it with --resume, or choose another --out")
        with joined() as ranks:
            sitting = open_sitting(
                run, config, changes=changes or {}, name=name or config.recipe, progress=progress, ranks=ranks
            )
            is_done = sitting.is_complete and ranks.from_first(run.result.exists())
            if ranks.is_first and not is_done:
                run.result.unlink(missing_ok=True)  # of a shorter run that now goes on
            track = sitting.config.track
            trackers = track.trackers if ranks.is_first else ()
            hear = stack.enter_context(
                following(run, trackers, project=track.project, name=track.name, notice=progress.say)
            )
            state = sitting.state
            if is_done:
                progress.say(f"{run.path}: complete at step {state.step:,}")
            else:
                outcome = _train_and_close(sitting, hear, progress)
                if outcome.reason not in ("complete", "patience"):
                    where = {"steps": outcome.state.step, "saved_steps": outcome.saved_step}
                    return {"stopped": outcome.reason, **where, "run": str(run.path)}
                state = outcome.state
        if not ranks.is_first:
            return {}
        if ranks.n > 1:  # those of the ranks that have gone
            torch.set_num_threads((sitting.config.train.threads or 1) * ranks.n_local)
        return finish_run(run, sitting.data, sitting.manifest, state, progress=progress)


def open_sitting(
    run: RunDir,
    config: RunConfig,
    *,
    changes: Mapping[str, Any],
    name: str,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> Sitting:
    """A sitting of a run that starts or goes on, ready for its next step; arguments and errors are those of `train`."""
    config, stored, notices = opened_config(run, config, changes)
    for notice in notices:
        progress.say(notice)
    name = str(run.config) if stored else name
    origin = open_origin(run, config)
    if origin is None:
        command = prepare_command(check(config), name=name)
    else:
        config, notices = adopt(run, config, origin, given=changes, stored=stored)
        config, rate_notices = lower_rates(config, given=changes, name=name)
        for notice in [*notices, *rate_notices]:
            progress.say(notice)
        check_data(check(config), origin, name=name)
        command = data_command(config, origin, name=name)
    check_installed(config.track.trackers)
    if not run.result.exists():  # before anything that takes long: what a task lacks is told at once
        open_tasks(config.eval.tasks, progress=progress)
    return sit_down(
        run, config, origin, stored=stored, changes=changes, command=command, progress=progress, ranks=ranks
    )


def _train_and_close(sitting: Sitting, hear: Hear, progress: Progress) -> Outcome:
    """Train; a stream's threads end with it, and how long the model waited for them is told."""
    if sitting.feed is None:
        return _train(sitting, hear, progress)
    feed, before_s = sitting.feed.feed, sitting.state.elapsed_s
    try:
        outcome = _train(sitting, hear, progress)
    finally:
        feed.close()
    sitting_s = outcome.state.elapsed_s - before_s
    share = feed.waited_s / sitting_s if sitting_s else 0.0
    progress.say(f"waited {feed.waited_s:.1f} s for text, {share:.1%} of {sitting_s:,.0f} s of training")
    return outcome


def _train(sitting: Sitting, hear: Hear, progress: Progress) -> Outcome:
    run, config = sitting.run, sitting.config
    ranks = sitting.ranks
    tasks = open_tasks(config.eval.tasks, progress=progress) if config.eval.tasks_every else []
    watch = watch_one_batch(sitting, progress) if config.train.overfit_one_batch else None

    def save(state: TrainState, is_best: bool, is_last: bool) -> bool:
        facts = facts_of(sitting.manifest, sitting.tokenizer)
        if sitting.feed is not None:
            facts["stream"] = position_facts(sitting.feed, state.cursor, ranks)
        model = whole_tensors(dict(sitting.model.named_parameters()), keep=ranks.is_first)
        optimizer = whole_tensors(optimizer_tensors(sitting.optimizers), keep=ranks.is_first)
        if not ranks.is_first:
            return True
        try:
            save_checkpoint(run, state, model=model, optimizer=optimizer, facts=facts)
            if is_best:
                mark_best(run, state.step)
        except CheckpointError as error:
            if is_last or not checkpoint_paths(run):
                raise
            progress.say(f"WARNING: {error}; training goes on and will try again")
            return False
        prune_checkpoints(run, keep=config.train.keep_checkpoints)
        return True

    def row(values: Mapping[str, Any]) -> None:
        if not ranks.is_first:
            return
        append_jsonl(run.metrics, values)
        progress.row(values)
        hear()
        if watch is not None:
            watch.row(values)

    def task_scores() -> Iterable[Mapping[str, Any]]:
        model = whole_model(sitting.model, device=config.train.device)
        return score_sample(model, sitting.tokenizer, config, tasks) if ranks.is_first else []

    def event(state: TrainState, what: str) -> None:
        row({"split": "event", "step": state.step, "tokens": state.tokens, "event": what})
        progress.say(f"WARNING: step {state.step:,}: {what}")

    def rewind() -> TrainState | None:
        if not (loaded := load_same(run, ranks, progress=progress)):
            return None
        copy_parameters(sitting.model, loaded.model, where=str(loaded.path))
        load_optimizer_tensors(sitting.optimizers, loaded.optimizer)
        if ranks.is_first:
            rewind_jsonl(run.metrics, step=loaded.state.step)
            rewind_jsonl(run.samples, step=loaded.state.step)
        return loaded.state

    parts = Parts(
        loss_function=sitting.loss_function,
        # anew each time: the micro-batch may have shrunk
        batches=lambda cursor: make_batches(sitting.config, sitting.windows, sitting.feed, ranks)(cursor),
        shrink=shrinker(sitting, progress),
        evaluate=lambda: score_together(
            sitting.exam, sitting.model, ranks, device=config.train.device, precision=config.train.precision
        ).measures(),
        sample=lambda step: _sample(sitting, step, progress),
        tasks=task_scores,
        save=save,
        row=row,
        event=event,
        rewind=rewind,
        flops_per_step=config.train.tokens_per_step
        * flops_per_token(config.model, vocab_size=sitting.tokenizer.vocab_size),
        peak_flops=sitting.environment["peak_flops"] * ranks.n,
    )
    progress.begin(f"training {run.path}", total=config.train.max_steps or 0, done=sitting.state.step)
    try:
        return run_loop(sitting.model, sitting.optimizers, config, sitting.state, parts, ranks)
    finally:
        progress.end()


def _sample(sitting: Sitting, step: int, progress: Progress) -> None:
    config, tokenizer = sitting.config, sitting.tokenizer
    if not config.eval.sample_prompts:
        return
    model = whole_model(sitting.model, device=config.train.device)
    if not sitting.ranks.is_first:
        return
    for prompt in config.eval.sample_prompts:
        made = generate_tokens(
            model,
            prompt_ids(prompt, tokenizer, config.data),
            SamplingConfig(temperature=0.8, top_p=0.9, max_tokens=_SAMPLE_TOKENS, seed=step),
            eos_id=tokenizer.eos_id,
            device=config.train.device,
            precision=weights_of(config.train.precision, config.train.device),
        )[0]
        text = tokenizer.decode(made.token_ids)
        append_jsonl(sitting.run.samples, {"step": step, "prompt": prompt, "text": text})
        progress.say(f"sample at step {step:,}: {prompt}{text}")
