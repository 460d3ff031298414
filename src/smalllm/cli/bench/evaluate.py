"""`smalllm bench evaluate`: how fast questions are scored."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from smalllm.cli.progress import make_progress
from smalllm.reporting.words import count


@dataclass(frozen=True)
class Options:
    """Measure how fast the questions of a task are scored."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    tasks: str = "hellaswag"
    """NAME, or NAME=PATH for questions in a file or folder, as for `smalllm evaluate`; one task."""
    against: Literal["lm-eval"] | None = None
    """lm-evaluation-harness with its Hugging Face backend, on the run's export."""
    batches: tuple[str, ...] = ("1", "8", "auto")
    """Of lm-evaluation-harness, in requests; each is measured, and auto is the largest that memory holds."""
    examples: int = 200
    """So many questions, spread evenly over the task; 0: all."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products, on both sides."""
    json: bool = False
    """Print the result as JSON."""


def show(options: Options) -> int:
    """Measure, and print the rates."""
    from smalllm.api.bench_evaluate import bench_evaluate

    found = bench_evaluate(
        options.run,
        options.tasks,
        against=options.against,
        batches=options.batches,
        examples=options.examples,
        rounds=options.rounds,
        precision=options.precision,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"{found.run}, {count(found.parameters)} parameters, {found.device}, {found.threads} threads, "
        f"PyTorch {found.torch}\n"
        f"{found.task}: {found.questions:,} questions, {found.precision}, {options.rounds} rounds"
    )
    print(f"  {'':<24} {'questions/s':>11}   smalllm is faster by")
    for way, rate in found.rates.items():
        rounds = " ".join(f"{one:,.1f}" for one in rate.rounds)
        print(f"  {way:<24} {rate.questions_per_second:>11,.1f}   {rate.ratio:>6.2f} x  ({rounds})")
    if found.ratio is not None:
        largest = max(rate.largest_difference for rate in found.rates.values())
        print(f"  {found.ratio:.2f} x the fastest; log-probabilities differ by at most {largest:.1e} nats")
    return 0
