"""`generate_tokens` and `run_prompts`: loops over a `Decoder`, for callers who want whole continuations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smalllm.errors import ConfigError
from smalllm.generation.decoder import MOST_SLOTS, Decoder, Event
from smalllm.generation.sampling import SamplingConfig, check_sampling, of_sample
from smalllm.model.gpt import GPT


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation.

    Attributes:
        token_ids: the new tokens, without the end-of-document token.
        finish_reason: "stop" at the end-of-document token or a stop text, "context" where the context was full and
            generation was to stop there, else "length".
        n_dropped: oldest tokens that no longer fitted into the context when the last one was drawn.
        text: where the decoder has a tokenizer; ends before a stop text, which `token_ids` do not.
        logprobs: of each of `token_ids`, and of the end-of-document token if there was one; where asked for [nats].
        alternatives: of the same: (id, log-probability) of the likeliest.
    """

    token_ids: list[int]
    finish_reason: str
    n_dropped: int
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)


def generate_tokens(
    model: GPT,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    eos_id: int,
    n: int = 1,
    device: str = "cpu",
    precision: str = "fp32",
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue a prompt `n` times.

    Args:
        model: put into evaluation mode.
        prompt: token ids; empty: a new document. One longer than the context keeps its newest tokens.
        config: how to draw.
        eos_id: ends a sequence; also what an empty prompt starts from.
        n: how many continuations; sample i does not depend on n.
        device: where the model is.
        precision: of the matrix products; see `Decoder`.
        on_token: told (sample, token id) as each token is drawn.

    Raises:
        ConfigError: sampling values out of range, or n below 1.
    """
    check_sampling(config, vocab_size=model.vocab_size)
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")
    decoder = Decoder(model, n_slots=min(n, MOST_SLOTS), eos_id=eos_id, device=device, precision=precision)

    def tell(i: int, event: Event) -> None:
        if on_token is not None and event.token_id is not None:
            on_token(i, event.token_id)

    return run_prompts(decoder, [(prompt, of_sample(config, i)) for i in range(n)], on_event=tell)


def run_prompts(
    decoder: Decoder,
    prompts: Sequence[tuple[Sequence[int], SamplingConfig]],
    *,
    on_event: Callable[[int, Event], None] | None = None,
) -> list[Generation]:
    """Continue many prompts; as one ends, the next takes its slot.

    Args:
        decoder: with free slots; sequences that others have in it go on, unheard.
        prompts: token ids and options of each.
        on_event: told (index of the prompt, event) of each token.

    Raises:
        ConfigError: a prompt or an option is wrong. What was begun is removed.
    """
    made = [Generation([], "length", 0) for _ in prompts]
    of_slot: dict[int, int] = {}
    begun = 0
    try:
        while begun < len(prompts) or of_slot:
            while begun < len(prompts) and decoder.n_free:
                of_slot[decoder.add(*prompts[begun])] = begun
                begun += 1
            for event in decoder.step():
                if (i := of_slot.get(event.slot)) is None:
                    continue
                if event.finish_reason is not None:
                    del of_slot[event.slot]
                made[i] = _with(made[i], event)
                if on_event is not None:
                    on_event(i, event)
    finally:
        for slot in of_slot:
            decoder.remove(slot)
    return made


def _with(made: Generation, event: Event) -> Generation:
    """The continuation with one more token; its lists are the same ones, longer."""
    if event.token_id is not None:
        made.token_ids.append(event.token_id)
    if event.logprob is not None:
        made.logprobs.append(event.logprob)
        made.alternatives.append(event.alternatives)
    return Generation(
        made.token_ids,
        event.finish_reason or "length",
        event.n_dropped,
        made.text + event.text,
        made.logprobs,
        made.alternatives,
    )
