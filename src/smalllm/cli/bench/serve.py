"""`smalllm bench serve`: the server with many clients."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from smalllm.cli.progress import make_progress
from smalllm.reporting.words import share


@dataclass(frozen=True)
class Options:
    """Measure the server with many clients at once against one."""

    run: Annotated[str, tyro.conf.Positional]
    """A run directory, or one checkpoint."""
    clients: int = 32
    """That ask at once."""
    seconds: float = 20.0
    """That they go on asking; one alone asks half as long before."""
    prompt_tokens: int = 64
    """In each prompt."""
    new_tokens: int = 64
    """That each request asks for."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Of the weights."""
    json: bool = False
    """Print the result as JSON."""


def show(options: Options) -> int:
    """Measure, and print the rates."""
    from smalllm.api.bench_serve import bench_serve

    found = bench_serve(
        options.run,
        clients=options.clients,
        seconds=options.seconds,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        precision=options.precision,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    growth = (
        "" if found.memory_growth_bytes is None else f"; the server grew by {found.memory_growth_bytes / 1e6:,.1f} MB"
    )
    print(
        f"{found.run}, {found.precision}; {found.prompt_tokens} prompt and {found.new_tokens} new tokens; "
        f"{found.requests:,} requests, {found.errors} errors{growth}"
    )
    rows = {
        "1 client": (found.alone_tokens_per_second, found.alone_first_token_s),
        f"{found.clients} clients": (found.tokens_per_second, found.first_token_s),
    }
    for name, (rate, (middle, late)) in rows.items():
        first = f"first token after {middle * 1e3:,.1f} ms (99 %: {late * 1e3:,.1f} ms)"
        print(f"  {name:<12} {rate:>9,.0f} tokens/s, {first}")
    print(
        f"  {found.ratio:.2f} x; the slowest client got {share(found.slowest_to_fastest)} of the fastest one's tokens"
    )
    return 0 if not found.errors else 1
