"""`smalllm quickstart`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.cli.options import parse
from smalllm.cli.progress import make_progress, stopped
from smalllm.reporting.words import count, duration


@dataclass(frozen=True)
class Options:
    """Train, evaluate and show a small story teller on this machine, offline."""

    minutes: float = 3.0
    """Minutes of training, compilation included."""
    out: Path = Path("runs/quickstart")
    """Run directory."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="quickstart")
    from smalllm.api.quickstart import quickstart
    from smalllm.api.text import generate
    from smalllm.generation.sampling import PRESETS

    progress = make_progress()
    result = quickstart(minutes=options.minutes, out=options.out, progress=progress)
    if "stopped" in result:
        progress.say(f"{stopped(result)}; run the same command again to continue")
        return 1
    if options.json:
        print(json.dumps(result))
        return 0
    print("\nThree stories it tells:\n")
    for text in generate(options.out, sampling=PRESETS["nucleus"], n=3):
        print(text.text + "\n")
    print(_closing_lines(result, options.out))
    return 0


def _closing_lines(result: Mapping[str, Any], out: Path) -> str:
    val, unigram, floor = result["val"], result["unigram"], result["floor"]
    quoted, longer = shlex.quote(str(out)), shlex.quote(f"{out}-20")
    generated = result["generated"]
    n_valid = round(generated["valid_share"] * generated["n"])
    return f"""\
What you have: a language model of {count(result["parameters"])} parameters, trained from random numbers on
{count(result["tokens"])} tokens of stories in {duration(result["train_time_s"])} on this machine.

How good it is, on stories it never saw:
  {val["bits_per_byte"]:.4f} bits per byte: what it needs to spell out a held-out story, per byte of text
  {unigram["bits_per_byte"]:.4f} is what knowing only how common each word is would need
  {floor["bits_per_byte"]:.4f} is the floor: the stories come from a grammar whose randomness is known, and no model can
         need less. This one is at {floor["ratio"]:.3f} times the floor: {1 - floor["excess_share"]:.2%} of the way from
         word counting to perfect.
  {n_valid} of {generated["n"]} stories that it made up are correct to the letter: who is who, what was lost, and where.

Look at:   {out / "report.html"}   (curves, numbers, samples)
Try next:
  smalllm generate {quoted} --prompt "Once upon a time, there was a" --n 3
  smalllm quickstart --minutes 20 --out {longer}      a better one
  smalllm prepare python && smalllm train python      real text: your Python's own source
  smalllm recipes                                     what else there is"""
