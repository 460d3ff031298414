"""`generate`: text from a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smalllm.errors import ConfigError
from smalllm.generation.decoder import MOST_SLOTS, Decoder, Event
from smalllm.generation.engine import Generation, run_prompts
from smalllm.generation.readers import weights_of
from smalllm.generation.sampling import SamplingConfig, check_sampling, of_sample
from smalllm.generation.text import prompt_ids
from smalllm.run import Run, load_run

DecodePrecision = Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text, where log-probabilities were asked for.

    Attributes:
        id: the token.
        logprob: under the model itself, before any option changed it [nats].
        alternatives: the likeliest tokens instead of it, itself perhaps among them: (id, log-probability).
    """

    id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Text:
    """One generated text.

    Attributes:
        text: the continuation, without the prompt.
        finish_reason: "stop" where the model ended the document or wrote a stop text, "context" where the context was
            full and it was to stop there, else "length".
        n_tokens: how many were generated.
        n_dropped: oldest tokens, the prompt's included, that no longer fitted into the context at the end.
        tokens: where `logprobs` was asked for.
    """

    text: str
    finish_reason: str
    n_tokens: int
    n_dropped: int
    tokens: tuple[Token, ...] = ()


def generate(
    run: Run | str | Path,
    prompt: str = "",
    *,
    sampling: SamplingConfig | None = None,
    n: int = 1,
    precision: DecodePrecision = "auto",
    on_text: Callable[[int, str], None] | None = None,
) -> list[Text]:
    """Continue a prompt; an empty one starts a new document.

    Args:
        run: a loaded run, or the path of one.
        prompt: any text.
        sampling: how to draw; absent: `SamplingConfig()`.
        n: how many continuations.
        precision: of the weights; auto: the run's. int8 is for CPUs with a C++ compiler (docs/generation.md).
        on_text: told (sample, text) as text arrives.

    Raises:
        ConfigError: sampling values out of range, or a precision that cannot be had here.
        CheckpointError: the path holds no usable run.
    """

    def tell(_prompt: int, sample: int, text: str) -> None:
        if on_text is not None:
            on_text(sample, text)

    (texts,) = generate_many(run, [prompt], sampling=sampling, n=n, precision=precision, on_text=tell)
    return texts


def generate_many(
    run: Run | str | Path,
    prompts: Sequence[str],
    *,
    sampling: SamplingConfig | None = None,
    n: int = 1,
    precision: DecodePrecision = "auto",
    on_text: Callable[[int, int, str], None] | None = None,
) -> list[list[Text]]:
    """Continue many prompts together, each `n` times; the texts are those of one call of `generate` for each.

    Args:
        run: a loaded run, or the path of one.
        prompts: any texts.
        sampling: how to draw; absent: `SamplingConfig()`.
        n: how many continuations of each.
        precision: see `generate`.
        on_text: told (prompt, sample, text) as text arrives.

    Returns:
        The continuations of each prompt.

    Raises:
        ConfigError: as `generate`.
        CheckpointError: as `generate`.
    """
    run, sampling = run if isinstance(run, Run) else load_run(run), sampling or SamplingConfig()
    check_sampling(sampling, vocab_size=run.tokenizer.vocab_size)
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")
    if not prompts:
        return []
    decoder = open_decoder(run, n_slots=min(n * len(prompts), MOST_SLOTS), precision=precision)
    ids = [prompt_ids(prompt, run.tokenizer, run.config.data) for prompt in prompts]

    def tell(i: int, event: Event) -> None:
        if on_text is not None and event.text:
            on_text(i // n, i % n, event.text)

    asked = [(one, of_sample(sampling, i)) for one in ids for i in range(n)]
    made = [as_text(one) for one in run_prompts(decoder, asked, on_event=tell)]
    return [made[i : i + n] for i in range(0, len(made), n)]


def open_decoder(run: Run, *, n_slots: int, precision: DecodePrecision = "auto", prompt_tokens: int = 2048) -> Decoder:
    """A decoder of a run's model, with its tokenizer: what a server drives, see `Decoder`.

    Args:
        run: loaded.
        n_slots: most sequences at once.
        precision: see `generate`.
        prompt_tokens: read in a step, see `Decoder`.

    Raises:
        ConfigError: the precision cannot be had here.
    """
    return Decoder(
        run.model,
        n_slots=n_slots,
        eos_id=run.tokenizer.eos_id,
        tokenizer=run.tokenizer,
        device=run.device,
        precision=weights_of(run.precision, run.device) if precision == "auto" else precision,
        prompt_tokens=prompt_tokens,
    )


def as_text(made: Generation) -> Text:
    """A continuation as users of a run know it."""
    tokens = zip(made.token_ids, made.logprobs, made.alternatives, strict=False)  # the end may have one more
    return Text(
        made.text,
        made.finish_reason,
        len(made.token_ids),
        made.n_dropped,
        tuple(Token(*token) for token in tokens),
    )
