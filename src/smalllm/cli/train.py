"""`smalllm train RECIPE`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smalllm.cli.options import DottedConfig, given_fields, parse, split_recipe
from smalllm.cli.progress import make_progress, stopped
from smalllm.reporting.words import count, duration, shell
from smalllm.rundir import is_other_rank


@dataclass(frozen=True)
class Options:
    """Train a model on prepared data, evaluate it and write its report."""

    config: DottedConfig
    out: Path | None = None
    """Run directory; absent: runs/RECIPE."""
    resume: bool = False
    """Continue the run in --out; starts it if there is none."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    config, rest, name = split_recipe(arguments, command="train")
    options = parse(Options, rest, command=f"train {name}", config=config)
    from smalllm.api.runs import train

    out, progress = options.out or Path("runs") / options.config.recipe, make_progress()
    result = train(
        options.config,
        out=out,
        resume=options.resume,
        changes=given_fields(rest, options.config),
        name=name,
        progress=progress,
    )
    if is_other_rank():  # rank 0 says it all
        return int("stopped" in result)
    if options.json:
        print(json.dumps(result))
    if "stopped" in result:
        again = ["smalllm", "train", name, "--out", str(out), "--resume"]
        progress.say(f"{stopped(result)}; continue with: {shell(again)}")
        return 1
    if not options.json:
        val, unigram = result["val"], result["unigram"]
        print(
            f"{out}: {count(result['parameters'])} parameters, {count(result['tokens'])} tokens in "
            f"{duration(result['train_time_s'])}"
        )
        print(
            f"  validation loss {val['loss']:.4f}, perplexity {val['perplexity']:.2f}, {val['bits_per_byte']:.4f} bits "
            f"per byte ({val['bits_per_byte'] / unigram['bits_per_byte']:.0%} of the unigram model's), "
            f"accuracy {val['accuracy']:.1%}"
        )
        print(f"  page: {out / 'report.html'}\n  next: smalllm generate {out} --prompt 'Once upon a time'")
    return 0
