"""How fast questions are scored here: smalllm, and lm-evaluation-harness's Hugging Face backend on the same weights.

Both get the same texts, from encoding to the last log-probability, and take turns, round by round, so that a machine
that is busy with other things slows both; their ratios, taken within a round, say more than their rates. Reading the
questions, exporting and loading the model are not timed.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from smalllm import runtime
from smalllm.api.interop import export
from smalllm.api.tasks import open_tasks, task_encoder
from smalllm.errors import ConfigError
from smalllm.evaluation.harness import hf_model
from smalllm.evaluation.likelihood import score_requests
from smalllm.evaluation.tasks import OpenTask
from smalllm.model.count import count_parameters
from smalllm.protocols import Progress, Silent
from smalllm.run import Run, load_run

Peer = Literal["lm-eval"]
Score = Callable[[], list[float]]
"""Log-probabilities of all continuations, question by question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRate:
    """What one way of scoring did.

    Attributes:
        questions_per_second: median over the rounds.
        ratio: how many times as fast smalllm was in the same round, median over the rounds.
        rounds: its `questions_per_second` in each round.
        largest_difference: of a log-probability from smalllm's [nats].
    """

    questions_per_second: float
    ratio: float
    rounds: tuple[float, ...]
    largest_difference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateBench:
    """What was measured on.

    Attributes:
        run: its path.
        task: its name.
        questions: how many.
        parameters: of the model.
        device: the processor or GPU.
        torch: its version.
        threads: of the CPU.
        precision: of matrix products, on both sides.
        rates: by way; ours first.
        ratio: of smalllm to the fastest of the peer's ways in the same round, median over the rounds; None without one.
    """

    run: str
    task: str
    questions: int
    parameters: int
    device: str
    torch: str
    threads: int
    precision: str
    rates: dict[str, EvaluateRate]
    ratio: float | None


def bench_evaluate(
    run: str | Path,
    task: str,
    *,
    against: Peer | None = None,
    batches: Sequence[str] = ("1", "8", "auto"),
    examples: int = 200,
    rounds: int = 3,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress | None = None,
) -> EvaluateBench:
    """Measure how fast the questions of a task are scored.

    Args:
        run: a run or checkpoint.
        task: NAME or NAME=PATH, as for `evaluate`.
        against: lm-evaluation-harness with its Hugging Face backend, on the run's export.
        batches: of the peer, in requests, each measured; it takes "auto" for the largest that memory holds.
        examples: so many questions, spread evenly over the task; 0: all.
        rounds: how often each way is measured, after one time unmeasured.
        precision: of matrix products: ours by autocast, the peer's of its weights.
        progress: told of each round.

    Raises:
        ConfigError: an unknown task, a number that is not positive, or the peer is not installed.
        CheckpointError, DataError: the run or the questions cannot be used.
        InteropError: the model has no place in the peer.
    """
    progress = progress or Silent()
    _check(against, batches, rounds, examples)
    (opened,) = open_tasks([task], n_examples=examples, progress=progress)
    loaded = load_run(run, precision=precision)
    ways: dict[str, Score] = {f"smalllm, {precision}": lambda: _ours(loaded, opened)}
    with TemporaryDirectory(prefix="smalllm-bench-") as folder:
        if against is not None:
            ways |= _theirs(loaded, opened, Path(folder, "hf"), batches, precision, progress)
        speeds, found = _measure(ways, len(opened.items), rounds, progress)
    first = next(iter(ways))
    theirs = [max(one) for one in zip(*(speeds[way] for way in ways if way != first), strict=True)]
    return EvaluateBench(
        run=str(run),
        task=opened.task.name,
        questions=len(opened.items),
        parameters=count_parameters(loaded.config.model, vocab_size=loaded.tokenizer.vocab_size).total,
        device=torch.cuda.get_device_name() if loaded.device == "cuda" else runtime.cpu_name(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        precision=precision,
        rates={way: _rate(speeds[first], speeds[way], found[first], found[way]) for way in ways},
        ratio=statistics.median(a / b for a, b in zip(speeds[first], theirs, strict=True)) if theirs else None,
    )


def _check(against: Peer | None, batches: Sequence[str], rounds: int, examples: int) -> None:
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: must be 1 or more")
    if wrong := [batch for batch in batches if batch != "auto" and not (batch.isdecimal() and int(batch) > 0)]:
        raise ConfigError(f"--batches {' '.join(wrong)}: each must be a whole number from 1, or auto")
    if examples < 0:
        raise ConfigError(f"--examples {examples}: must be 1 or more, or 0 for all")
    if against is not None and not batches:
        raise ConfigError("--batches is empty: name at least one for --against lm-eval")
    if against is not None and importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--against lm-eval: it is not installed; install it: pip install 'smalllm[lm-eval]'")


def _ours(run: Run, opened: OpenTask) -> list[float]:
    encoder = task_encoder(run.tokenizer, run.config)
    groups = [opened.task.encode(item, encoder) for item in opened.items]
    found = score_requests(run.model, groups, device=run.device, precision=run.precision)
    if not hasattr(opened.items[0], "choices"):  # a text in windows
        return [sum((one.log_prob for one in group), 0.0) for group in found]
    return [one.log_prob for group in found for one in group]


def _theirs(
    run: Run, opened: OpenTask, folder: Path, batches: Sequence[str], precision: str, progress: Progress
) -> dict[str, Score]:
    """A way for each batch size; the model is loaded once."""
    export(run, folder, progress=progress)
    opens = bool(task_encoder(run.tokenizer, run.config).opening)
    theirs = hf_model(folder, device=run.device, precision=precision, opens_with_end=opens)
    asked: list[list[tuple[str, ...]]]
    if hasattr(opened.items[0], "choices"):
        asked = [[(item.context, f" {choice}") for choice in item.choices] for item in opened.items]
    else:
        asked = [[(item.text,)] for item in opened.items]
    return {f"lm-eval, batches of {batch}": _their_way(theirs, asked, batch, run.device) for batch in batches}


def _their_way(theirs: Any, asked: list[list[tuple[str, ...]]], batch: str, device: str) -> Score:
    from lm_eval.api.instance import Instance

    kind: Any = "loglikelihood" if len(asked[0][0]) == 2 else "loglikelihood_rolling"
    requests = [
        Instance(kind, {}, arguments, i, (None, number, 1))
        for number, one in enumerate(asked)
        for i, arguments in enumerate(one)
    ]

    def score() -> list[float]:
        theirs.batch_size_per_gpu = "auto" if batch == "auto" else int(batch)
        with redirect_stdout(StringIO()):  # it tells what it found for "auto"
            answers = getattr(theirs, kind)(requests, disable_tqdm=True)
        runtime.synchronize(device)
        return [float(answer[0] if isinstance(answer, tuple) else answer) for answer in answers]

    return score


def _measure(
    ways: dict[str, Score], n_questions: int, rounds: int, progress: Progress
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Questions per second of each way in each round, and what it found."""
    found = {way: score() for way, score in ways.items()}  # warms up, allocates
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(1, rounds + 1):
        for way, score in ways.items():
            started_at = time.perf_counter()
            score()
            speeds[way].append(n_questions / (time.perf_counter() - started_at))
            progress.say(f"round {number} of {rounds}: {way}, {speeds[way][-1]:,.1f} questions/s")
    return speeds, found


def _rate(ours: list[float], speeds: list[float], our_found: list[float], found: list[float]) -> EvaluateRate:
    return EvaluateRate(
        questions_per_second=statistics.median(speeds),
        ratio=statistics.median(a / b for a, b in zip(ours, speeds, strict=True)),
        rounds=tuple(speeds),
        largest_difference=max(abs(a - b) for a, b in zip(our_found, found, strict=True)),
    )
