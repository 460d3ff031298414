"""What a completion request asks for, checked against the model: prompts as ids, options, how much there will be."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smalllm.errors import ConfigError
from smalllm.generation.sampling import SamplingConfig, check_sampling, of_sample
from smalllm.generation.text import prompt_ids
from smalllm.serving.choices import Choice, Echo
from smalllm.serving.errors import RequestError, refused
from smalllm.serving.fields import CompletionFields, Prompt
from smalllm.serving.limits import Limits
from smalllm.serving.models import Served
from smalllm.serving.scoring import score_prompt
from smalllm.serving.ticket import Asked

_MAX_TOKENS = 16
_LONG_CHARACTERS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A completion request that can be served.

    Attributes:
        served: the model.
        fields: the request.
        prompts: the ids of each prompt, at least one.
        sampling: its options; those of sample i of a prompt are `of_sample(sampling, i)`.
        max_tokens: of each continuation.
        n: continuations of each prompt.
        id: of the response.
        created: when it was asked [s since 1970].
    """

    served: Served
    fields: CompletionFields
    prompts: list[list[int]]
    sampling: SamplingConfig
    max_tokens: int
    n: int
    id: str
    created: int

    def asked(self) -> list[Asked]:
        """All sequences, those of a prompt together."""
        return [(ids, of_sample(self.sampling, i)) for ids in self.prompts for i in range(self.n)]

    @property
    def n_values(self) -> int:
        """Tokens and log-probabilities that the response may hold."""
        fields = self.fields
        n_tokens = self.n * sum(self.max_tokens + (len(ids) if fields.echo else 0) for ids in self.prompts)
        return n_tokens * (1 if fields.logprobs is None else 2 + fields.logprobs)

    def head(self) -> dict[str, Any]:
        """What a response and each event of a stream begin with."""
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}
        return {**head, "seed": self.sampling.seed}

    def prompt_token_ids(self) -> dict[str, Any]:
        """The ids of the prompt, or of each of several, where they are asked for."""
        if not self.fields.return_token_ids:
            return {}
        return {"prompt_token_ids": self.prompts if len(self.prompts) > 1 else self.prompts[0]}

    def usage(self, n_written: int) -> dict[str, int]:
        """Tokens that were read and written; a prompt counts once."""
        n_read = sum(map(len, self.prompts))
        return {"prompt_tokens": n_read, "completion_tokens": n_written, "total_tokens": n_read + n_written}

    async def choices(self) -> list[Choice]:
        """The continuations, nothing written yet; where prompts are repeated with log-probabilities, these are
        computed here.
        """
        tasks = [asyncio.ensure_future(self._echo(ids)) for ids in self.prompts]
        try:
            echoes = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # where one was refused, the others are for nobody
                task.cancel()
        return [
            Choice(
                p * self.n + i,
                self.served.run.tokenizer,
                logprobs=self.fields.logprobs,
                gives_ids=bool(self.fields.return_token_ids),
                slides=self.sampling.past_context == "slide",
                echo=echo,
            )
            for p, echo in enumerate(echoes)
            for i in range(self.n)
        ]

    async def _echo(self, ids: list[int]) -> Echo | None:
        fields, run = self.fields, self.served.run
        if not fields.echo:
            return None
        text = run.tokenizer.decode(ids)
        if fields.logprobs is None:
            return text, ids, [None] * len(ids)
        n_top = fields.logprobs
        future = self.served.engine.compute(lambda: score_prompt(run, ids, n_top))
        return text, ids, [None, *await asyncio.wrap_future(future)]


async def make_plan(served: Served, fields: CompletionFields, limits: Limits) -> Plan:
    """Check a request against the model.

    Raises:
        RequestError: it cannot be served so.
    """
    n, max_tokens = fields.n or 1, _MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
    if fields.best_of not in (None, 1, n):
        raise RequestError(400, f"best_of = {fields.best_of}: is not offered; leave it out", param="best_of")
    if fields.suffix:
        raise RequestError(400, "suffix: the models write forwards only; leave it out", param="suffix")
    if fields.stream_options is not None and not fields.stream:
        raise RequestError(400, "stream_options: goes with stream = true", param="stream_options")
    sampling = fields.sampling(
        max_tokens=max(1, max_tokens),
        stop=fields.stop,
        logprobs=fields.logprobs,
        past_context=fields.past_context or "stop",
        seed=secrets.randbits(32) if fields.seed is None else fields.seed,
    )
    check_options(served, sampling)
    plan = Plan(
        served=served,
        fields=fields,
        prompts=[await ids_of(served, prompt, param="prompt") for prompt in fields.prompt],
        sampling=sampling,
        max_tokens=max_tokens,
        n=n,
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )
    _check_size(plan, limits)
    return plan


def check_options(served: Served, sampling: SamplingConfig) -> None:
    """Refuse options that mean nothing to this model.

    Raises:
        RequestError: the first says which.
    """
    vocab_size = served.run.tokenizer.vocab_size
    check_ids([token_id for token_id, _ in sampling.logit_bias], vocab_size=vocab_size, param="logit_bias")
    try:
        check_sampling(sampling, vocab_size=vocab_size)
    except ConfigError as error:
        raise refused(error) from error


async def ids_of(served: Served, prompt: Prompt, *, param: str) -> list[int]:
    """A prompt as the model reads it; an empty one as the token that begins a document.

    Raises:
        RequestError: an id that does not exist.
    """
    run = served.run
    if not isinstance(prompt, str):
        check_ids(prompt, vocab_size=run.tokenizer.vocab_size, param=param)
        return prompt or [run.tokenizer.eos_id]
    if len(prompt) <= _LONG_CHARACTERS:
        return prompt_ids(prompt, run.tokenizer, run.config.data) or [run.tokenizer.eos_id]
    return await asyncio.to_thread(prompt_ids, prompt, run.tokenizer, run.config.data)


def check_ids(ids: Sequence[int], *, vocab_size: int, param: str) -> None:
    """Refuse ids that the model does not have.

    Raises:
        RequestError: the first says which.
    """
    wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        raise RequestError(400, f"{param}: token id {str(wrong)[:24]} is not one of 0 to {vocab_size - 1}", param=param)


def _check_size(plan: Plan, limits: Limits) -> None:
    context, fields = plan.served.context_length, plan.fields
    if len(plan.prompts) * plan.n > limits.sequences:
        said = (
            f"{len(plan.prompts)} prompts with n = {plan.n}: at most {limits.sequences} sequences go into one request"
        )
        raise RequestError(400, said, param="n")
    scores_prompt = bool(fields.echo) and fields.logprobs is not None
    for ids in plan.prompts:
        if plan.sampling.past_context == "stop" and len(ids) + plan.max_tokens > context:
            said = (
                f"the prompt has {len(ids):,} tokens and max_tokens is {plan.max_tokens:,}; the model sees {context:,} "
                'together; ask for less, or set past_context to "slide", which forgets the oldest'
            )
            raise RequestError(400, said, param="max_tokens", code="context_length_exceeded")
        if scores_prompt and len(ids) > context:
            said = f"echo with logprobs: the prompt has {len(ids):,} tokens and the model sees {context:,}"
            raise RequestError(400, said, param="echo", code="context_length_exceeded")
    if plan.n_values > limits.values:
        said = f"{plan.n_values:,} tokens and log-probabilities could be written; one response holds {limits.values:,}"
        raise RequestError(400, f"{said}; ask for fewer of either", param="max_tokens")
