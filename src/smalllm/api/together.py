"""What the processes of a sitting do together: one checkpoint, one configuration, one score."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from smalllm.api.scores import Exam
from smalllm.checkpoint import Checkpoint, load_checkpoint, load_latest
from smalllm.config import RunConfig
from smalllm.evaluation.loss import Score
from smalllm.model.gpt import GPT
from smalllm.protocols import Progress
from smalllm.recipes.resolve import largest_divisor, windows_per_rank
from smalllm.rundir import RunDir, read_json
from smalllm.training.distributed import Ranks
from smalllm.training.parallel import whole_model


def load_same(run: RunDir, ranks: Ranks, *, progress: Progress) -> Checkpoint | None:
    """The newest checkpoint that rank 0 trusts, on every rank; it alone sets damaged ones aside.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
    """
    loaded = load_latest(run, notice=progress.say) if ranks.is_first else None
    path = ranks.from_first(str(loaded.path) if loaded else None)
    return load_checkpoint(Path(path)) if path and loaded is None else loaded


def fit_to_ranks(
    run: RunDir, config: RunConfig, ranks: Ranks, *, stored: bool, changes: Mapping[str, Any]
) -> tuple[RunConfig, list[str]]:
    """The configuration of a resumed run for as many processes as there are now.

    What was resolved for another number of them, or for another division of the model among them, is resolved anew:
    the micro-batch, and threads unless they are given.

    Returns:
        It, and notices.

    Raises:
        ConfigError: they cannot share the windows of a step in equal parts.
    """
    before, now, train = read_json(run.environment).get("processes", 1), ranks.n, config.train
    if not stored:
        return config, []
    n_windows = windows_per_rank(config, max(1, now // train.tensor_parallel))
    if isinstance(train.micro_batch_size, int) and n_windows % train.micro_batch_size:
        train = replace(train, micro_batch_size=largest_divisor(n_windows, at_most=train.micro_batch_size))
    if before == now:
        sizes = f"{config.train.micro_batch_size} to {train.micro_batch_size}"
        notice = (
            f"{run.path}: from {sizes} sequences at a time, since each process now has {n_windows} of a step's windows"
        )
        return replace(config, train=train), [notice] if train != config.train else []
    if "train.threads" not in changes:
        train = replace(train, threads=None)
    notice = (
        f"{run.path}: was trained by {_processes(before)} and goes on with {_processes(now)}; it sees the same windows "
        "in the same steps, while rounding and dropout differ"
    )
    return replace(config, train=train), [notice]


def score_together(exam: Exam, model: GPT, ranks: Ranks, *, device: str, precision: str) -> Score:
    """The score of a model, each rank having scored a part; the same on all."""
    mine = exam.score(
        whole_model(model, device=device), device=device, precision=precision, rank=ranks.rank, n_ranks=ranks.n
    )
    total = Score()
    for row in ranks.gather(list(asdict(mine).values())):
        nats, tokens, text_nats, text_bytes, correct = row
        total += Score(nats, int(tokens), text_nats, int(text_bytes), int(correct))
    return total


def _processes(n: int) -> str:
    return "1 process" if n == 1 else f"{n} processes"
