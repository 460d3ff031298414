"""`smalllm bench generate`: how fast a model writes."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from smalllm.cli.progress import make_progress


@dataclass(frozen=True)
class Options:
    """Measure how fast a model writes, greedily."""

    model: Annotated[str, tyro.conf.Positional] = "tinystories"
    """A run, or a recipe, whose shape then has drawn weights."""
    batches: tuple[int, ...] = (1, 16)
    """Sequences at once."""
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32", "bf16", "int8")
    """Of our weights, and of the peers' where they have them."""
    prompt_tokens: int = 32
    """In each prompt."""
    new_tokens: int = 256
    """After each prompt."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    alone: bool = False
    """Do not measure transformers and llama.cpp."""
    json: bool = False
    """Print the result as JSON."""


def show(options: Options) -> int:
    """Measure, and print the rates."""
    from smalllm.api.bench_generate import bench_generate

    found = bench_generate(
        options.model,
        batches=options.batches,
        precisions=options.precisions,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        rounds=options.rounds,
        peers=not options.alone,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"{found.model}, {found.parameters / 1e6:.3g}M parameters, {found.device}, {found.threads} threads; "
        f"{found.prompt_tokens} prompt and {found.new_tokens} new tokens, {options.rounds} rounds"
    )
    print("  batch  way                    prompt tokens/s   tokens/s  to transformers  (rounds)")
    for rate in found.rates:
        rounds = " ".join(f"{one:,.0f}" for one in rate.rounds)
        ratio = "" if rate.ratio is None else f"{rate.ratio:.2f} x"
        speeds = f"{rate.prompt_tokens_per_second:>15,.0f}  {rate.tokens_per_second:>9,.0f}"
        print(f"  {rate.batch:>5}  {rate.way:<22} {speeds}  {ratio:>15}  ({rounds})")
    return 0
