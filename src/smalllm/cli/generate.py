"""`smalllm generate RUN`."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from smalllm.cli.options import parse
from smalllm.errors import ConfigError

if TYPE_CHECKING:
    from smalllm.api.text import Text
    from smalllm.generation.sampling import SamplingConfig
    from smalllm.run import Run


@dataclass(frozen=True)
class Options:
    """Write text with a run's best checkpoint. An absent prompt starts a new document."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    prompt: str = ""
    """Text to continue."""
    prompts: Path | None = None
    """File with a prompt in each line; .jsonl: a string, or an object with "prompt", in each line."""
    interactive: bool = False
    """Write together: your lines, the model's continuations; /help shows the commands."""
    preset: Literal["greedy", "conservative", "nucleus"] = "nucleus"
    """greedy: the likeliest token; conservative: temperature 0.6, top-k 40; nucleus: temperature 0.8, top-p 0.9."""
    temperature: float | None = None
    """Divides the logits; 0 is greedy. Given, it replaces the preset's, as do the next seven."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; 0: all."""
    top_p: float | None = None
    """Draw from the likeliest tokens that reach this probability together; 1: all."""
    min_p: float | None = None
    """Draw from tokens at least this fraction as likely as the likeliest; 0: all."""
    repetition_penalty: float | None = None
    """Make tokens that occurred less likely; 1: off."""
    presence_penalty: float | None = None
    """Taken from the logits of tokens that were written before; 0: off."""
    frequency_penalty: float | None = None
    """Taken from the logits of tokens for each time they were written before; 0: off."""
    logit_bias: tuple[str, ...] = ()
    """ID=NUMBER: added to the logit of a token id; -inf forbids it."""
    stop: tuple[str, ...] = ()
    """End before the first of these texts."""
    max_tokens: int = 256
    """Most tokens to write."""
    past_context: Literal["slide", "stop"] = "slide"
    """Where the model's context is full: slide (forget the older half and go on) or stop."""
    logprobs: int | None = None
    """With --json: the log-probability of each token, and of so many of the likeliest."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = "auto"
    """Of the weights; auto: as the run was trained."""
    seed: int = 0
    """The same seed writes the same text."""
    n: int = 1
    """How many continuations."""
    json: bool = False
    """Print the result as JSON, when it is complete: an object for each prompt, in a line of its own."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="generate")
    from smalllm.run import load_run

    sampling, prompts = sampling_of(options), _prompts_of(options)
    if options.interactive:
        from smalllm.cli.interactive import converse

        return converse(load_run(options.run), sampling, first=options.prompt, precision=options.precision)
    run = load_run(options.run)
    for prompt in prompts:
        _warn_of_length(prompt, run, sampling)
    made = _write(run, prompts, sampling, options)
    if any(text.n_dropped for texts in made for text in texts):
        print(
            f"the text outgrew the {run.config.model.context_length:,} tokens that the model sees; its beginning was "
            "forgotten on the way",
            file=sys.stderr,
        )
    return 0


def sampling_of(options: Options) -> "SamplingConfig":
    """The preset with what was given.

    Raises:
        ConfigError: a value that means nothing.
    """
    from smalllm.generation.sampling import PRESETS, check_sampling

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    given: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    given |= {name: getattr(options, name) for name in ("stop", "max_tokens", "past_context", "logprobs", "seed")}
    sampling = replace(PRESETS[options.preset], **given, logit_bias=bias_of(options.logit_bias))
    check_sampling(sampling)
    return sampling


def bias_of(words: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """`ID=NUMBER` words as pairs.

    Raises:
        ConfigError: a word that is none.
    """
    pairs = []
    for word in words:
        token_id, _, number = word.partition("=")
        try:
            pairs.append((int(token_id), float(number)))
        except ValueError:
            pairs.append((-1, math.nan))
        if math.isnan(pairs[-1][1]):
            raise ConfigError(f"--logit-bias {word}: must be a token id, =, and a number, as in 13=-5 or 13=-inf")
    return tuple(pairs)


def _prompts_of(options: Options) -> list[str]:
    """What is to be continued.

    Raises:
        ConfigError: options that exclude each other, text that is not UTF-8, or a file that cannot be read.
    """
    if options.prompts is None:
        try:
            options.prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"--prompt is not UTF-8 text ({error.reason}); give it in UTF-8") from error
        return [options.prompt]
    if options.prompt or options.interactive:
        raise ConfigError("--prompts FILE: cannot be together with --prompt or --interactive; leave one out")
    try:
        text = options.prompts.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {options.prompts}: cannot be read ({error}); give a UTF-8 text file") from error
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    found = [_json_prompt(line) for line in lines] if options.prompts.suffix == ".jsonl" else lines
    prompts = [prompt for prompt in found if prompt is not None]
    if not prompts or len(prompts) < len(found):
        wrong = "no prompt" if not prompts else f"{len(found) - len(prompts)} lines that are none"
        raise ConfigError(f'--prompts {options.prompts}: {wrong}; give one in each line (.jsonl: {{"prompt": …}})')
    return prompts


def _json_prompt(line: str) -> str | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    found = found.get("prompt") if isinstance(found, dict) else found
    return found if isinstance(found, str) and not _has_surrogates(found) else None


def _has_surrogates(text: str) -> bool:
    """Whether it is not Unicode text, though JSON can spell it."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _warn_of_length(prompt: str, run: "Run", sampling: "SamplingConfig") -> None:
    n_prompt, context = len(run.tokenizer.encode(prompt)), run.config.model.context_length
    if n_prompt > context and sampling.past_context == "slide":
        print(
            f"the prompt has {n_prompt:,} tokens and the model sees {context:,}: only its end is used",
            file=sys.stderr,
        )


def _write(run: "Run", prompts: list[str], sampling: "SamplingConfig", options: Options) -> "list[list[Text]]":
    """Print what is generated: as it comes where it is one text, else in whole texts, in their order."""
    from smalllm.api.text import generate_many

    streams = len(prompts) == options.n == 1 and not options.json

    def show(_prompt: int, _sample: int, piece: str) -> None:
        print(piece, end="", flush=True)

    if streams:
        print(prompts[0], end="", flush=True)
    made = generate_many(
        run,
        prompts,
        sampling=sampling,
        n=options.n,
        precision=options.precision,
        on_text=show if streams else None,
    )
    if streams:
        print()
    elif options.json:
        for prompt, texts in zip(prompts, made, strict=True):
            print(json.dumps({"prompt": prompt, "texts": [_as_json(text) for text in texts]}))
    else:
        whole = [prompt + text.text for prompt, texts in zip(prompts, made, strict=True) for text in texts]
        print("\n---\n".join(whole))
    return made


def _as_json(text: "Text") -> dict[str, Any]:
    found = asdict(text)
    if not text.tokens:
        del found["tokens"]
    return found
