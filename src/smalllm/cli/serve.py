"""`smalllm serve RUN [RUN …]`."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from smalllm.cli.options import parse
from smalllm.errors import ConfigError

if TYPE_CHECKING:
    from smalllm.serving import Served


@dataclass(frozen=True)
class Options:
    """Answer completions over HTTP as OpenAI does, with a page to play at /, until Ctrl-C."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run directories, or single checkpoints."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines can reach needs a token."""
    port: int = 8000
    """0 for any free one."""
    token: str | None = None
    """What every request must bring; other users of this machine can see it here, and not in SMALLLM_TOKEN."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = "auto"
    """Of the weights; auto: as each run was trained."""
    slots: int | None = None
    """Sequences at once, of each model; absent: 32, or as many as fit into 2 GiB of keys and values."""
    quiet: bool = False
    """Do not print a line for each request."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="serve")
    if not options.runs:
        raise ConfigError("no run was given; write it first: smalllm serve RUN, as in smalllm serve runs/stories")
    from smalllm.serving import serve

    def started(address: str, models: "Sequence[Served]") -> None:
        print(address, flush=True)
        for served in models:
            facts = f"{served.card()['n_parameters']:,} parameters, {served.precision}, {served.engine.backend}"
            print(f"  {served.name}: {facts}, context {served.context_length:,}", file=sys.stderr)
        token = "TOKEN" if options.token else "$SMALLLM_TOKEN" if os.environ.get("SMALLLM_TOKEN") else None
        example = _example(address, models[0].name, token=token)
        print(f"the page to play: {address}/   try: {example}", file=sys.stderr)
        print("Ctrl-C ends it", file=sys.stderr, flush=True)

    serve(
        *options.runs,
        host=options.host,
        port=options.port,
        token=options.token,
        precision=options.precision,
        slots=options.slots,
        started=started,
        log=None if options.quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )
    print("stopped", file=sys.stderr)
    return 0


def _example(address: str, model: str, *, token: str | None) -> str:
    """A request to try; `token` as it is to be written, for the token itself is for no terminal."""
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 16})
    header = "" if token is None else f' -H "Authorization: Bearer {token}"'
    return f"curl {address}/v1/completions{header} -d {shlex.quote(body)}"
