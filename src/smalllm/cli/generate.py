"""`smalllm generate RUN`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from smalllm.cli.options import parse
from smalllm.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Write text with a run's best checkpoint. An absent prompt starts a new document."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    prompt: str = ""
    """Text to continue."""
    preset: Literal["greedy", "conservative", "nucleus"] = "nucleus"
    """greedy: the likeliest token; conservative: temperature 0.6, top-k 40; nucleus: temperature 0.8, top-p 0.9."""
    temperature: float | None = None
    """Divides the logits; 0 is greedy. Given, it replaces the preset's, as do the next three."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; 0: all."""
    top_p: float | None = None
    """Draw from the likeliest tokens that reach this probability together; 1: all."""
    repetition_penalty: float | None = None
    """Make tokens that occurred less likely; 1: off."""
    max_tokens: int = 256
    """Most tokens to write."""
    seed: int = 0
    """The same seed writes the same text."""
    n: int = 1
    """How many continuations."""
    json: bool = False
    """Print the result as JSON, when it is complete."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="generate")
    from smalllm.api.text import generate
    from smalllm.generation.sampling import PRESETS, check_sampling
    from smalllm.run import load_run

    given = {
        name: getattr(options, name)
        for name in ("temperature", "top_k", "top_p", "repetition_penalty")
        if getattr(options, name) is not None
    }
    sampling = replace(PRESETS[options.preset], **given, max_tokens=options.max_tokens, seed=options.seed)
    check_sampling(sampling)
    try:
        options.prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"--prompt is not UTF-8 text ({error.reason}); give it in UTF-8") from error
    run = load_run(options.run)
    n_prompt, context = len(run.tokenizer.encode(options.prompt)), run.config.model.context_length
    if n_prompt > context:
        print(
            f"the prompt has {n_prompt:,} tokens and the model sees {context:,}: only its end is used",
            file=sys.stderr,
        )
    streams = options.n == 1 and not options.json

    def show(_sample: int, piece: str) -> None:
        print(piece, end="", flush=True)

    if streams:
        print(options.prompt, end="", flush=True)
    texts = generate(run, options.prompt, sampling=sampling, n=options.n, on_text=show if streams else None)
    if options.json:
        print(json.dumps({"prompt": options.prompt, "texts": [asdict(text) for text in texts]}))
    elif streams:
        print()
    else:
        print("\n---\n".join(options.prompt + text.text for text in texts))
    if any(text.n_dropped for text in texts):
        print(
            f"the text outgrew the {context:,} tokens that the model sees; its beginning was forgotten on the way",
            file=sys.stderr,
        )
    return 0
