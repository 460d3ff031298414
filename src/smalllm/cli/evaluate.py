"""`smalllm evaluate RUN`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress


@dataclass(frozen=True)
class Options:
    """Measure a run's best checkpoint on its validation split, beside the unigram model and a known floor."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    tasks: str = "loss"
    """What to measure, separated by commas: loss."""
    data: Path | None = None
    """Another data directory, made with the same tokenizer."""
    tokens: int = 0
    """Score about so many tokens; 0: the whole split."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="evaluate")
    from smalllm.api.scores import evaluate

    tasks = [task for task in options.tasks.split(",") if task]
    result = evaluate(options.run, tasks=tasks, data=options.data, tokens=options.tokens, progress=make_progress())
    if options.json:
        print(json.dumps(result))
        return 0
    loss = result["results"]["loss"]
    print(f"{result['run']} {result['checkpoint']}: {loss['scored_tokens']:,} tokens scored")
    print(f"  loss           {loss['loss']:.4f} nats/token    unigram {loss['unigram']['loss']:.4f}")
    print(f"  bits per byte  {loss['bits_per_byte']:.4f}               unigram {loss['unigram']['bits_per_byte']:.4f}")
    print(f"  perplexity     {loss['perplexity']:.2f}")
    print(f"  accuracy       {loss['accuracy']:.1%}")
    if "floor" in loss:
        floor = loss["floor"]
        print(
            f"  floor          {floor['bits_per_byte']:.4f} bits per byte: the model is at {floor['ratio']:.3f} times "
            f"the floor, {floor['excess_share']:.1%} of the way left from unigram"
        )
    return 0
