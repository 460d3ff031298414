"""`smalllm evaluate RUN`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress

_SHARES = ("acc", "acc_norm", "acc_token")


@dataclass(frozen=True)
class Options:
    """Measure a run's best checkpoint on its validation split or another text, and in tasks."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    tasks: str = "loss"
    """What to measure, separated by commas: loss, hellaswag, hellaswag_nanogpt, lambada, blimp, arc_easy, piqa,
    wikitext; NAME=PATH for questions in a file, a folder, a URL or another set of the Hub; lm-eval:NAME for a task of
    lm-evaluation-harness."""
    data: Path | None = None
    """Another data directory, made with the same tokenizer."""
    text: Path | None = None
    """A file or folder of text to score in place of the validation split."""
    stride: int | None = None
    """Score so many new tokens a window, each with nearly a whole context; absent: windows follow each other."""
    tokens: int = 0
    """Score about so many tokens; 0: the whole split or text."""
    examples: int = 0
    """Score so many questions of each task, spread evenly over it; 0: all."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="evaluate")
    from smalllm.api.evaluation import evaluate

    result = evaluate(
        options.run,
        tasks=[task for task in options.tasks.split(",") if task],
        data=options.data,
        text=options.text,
        stride=options.stride,
        tokens=options.tokens,
        examples=options.examples,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['run']} {result['checkpoint']}")
    for name, measures in result["results"].items():
        print("\n".join(_loss_lines(measures) if name == "loss" else _task_lines(name, measures)))
    return 0


def _loss_lines(loss: Mapping[str, Any]) -> Iterator[str]:
    unigram = loss.get("unigram", {})
    yield f"loss: {loss['scored_tokens']:,} tokens scored, {loss['scored_bytes']:,} bytes"
    for label, key, unit in (("loss", "loss", "nats/token"), ("bits per byte", "bits_per_byte", "")):
        beside = f"unigram {unigram[key]:.4f}" if unigram else ""
        yield f"  {label:<14} {loss[key]:.4f}{_error(loss[f'{key}_stderr'], '.4f'):<10} {unit:<11} {beside}".rstrip()
    yield f"  perplexity     {loss['perplexity']:.2f}"
    yield f"  accuracy       {loss['accuracy']:.1%}, among the likeliest five {loss['top5_accuracy']:.1%}"
    yield f"  by context     {_bins(loss['by_position'])}"
    yield f"  by frequency   {_bins(loss['by_frequency'])}"
    if "floor" in loss:
        floor = loss["floor"]
        yield (
            f"  floor          {floor['bits_per_byte']:.4f} bits per byte: the model is at {floor['ratio']:.3f} times "
            f"the floor, {floor['excess_share']:.1%} of the way left from unigram"
        )


def _bins(bins: Sequence[Mapping[str, Any]]) -> str:
    """`1: 5.12  2: 4.80  3-4: 4.31`."""
    spans = ((str(b["from"]) if b["from"] == b["to"] else f"{b['from']}-{b['to']}", b["loss"]) for b in bins)
    return "  ".join(f"{span}: {loss:.2f}" for span, loss in spans)


def _task_lines(name: str, measures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {measures['n']:,} scored"
    for key, value in measures.items():
        if key in ("n", "chance", "ties") or key.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = measures.get(f"{key}_stderr")
        if key in _SHARES:
            yield f"  {key:<16} {value:.2%}{_error(error, '.2%')}"
        else:
            yield f"  {key:<16} {value:,.4f}{_error(error, ',.4f')}"
    if "chance" in measures:
        of_bits = name.startswith("wikitext")
        yield f"  {'chance':<16} {measures['chance']:{'.4f' if of_bits else '.2%'}}"


def _error(error: float | None, form: str) -> str:
    return f" ± {error:{form}}" if isinstance(error, float) else ""
