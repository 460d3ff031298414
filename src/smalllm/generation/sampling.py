"""How the next token is drawn: the options, what is allowed, and presets. `filters.py` carries them out.

The order is that of Hugging Face's generate: bias, repetition penalty, presence and frequency penalties, temperature,
top-k, top-p, min-p. Temperature 0 is greedy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.errors import ConfigError
from smalllm.generation.filters import Rows, draw_rows, filter_rows, penalize_repetition

__all__ = ["PRESETS", "SamplingConfig", "check_sampling", "filter_logits", "penalize_repetition", "sample_tokens"]

PastContext = Literal["slide", "stop"]
MOST_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens whose probabilities reach p together [more than 0 to 1]."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest [0 to 1]; 0: all."""
    repetition_penalty: float = 1.0
    """Make tokens that occurred less likely: their logits are divided (if positive) or multiplied by it."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that were generated before [-100 to 100]."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens once for each time they were generated before [-100 to 100]."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number): added to the token's logit [-100 to 100, or -inf to forbid it]."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    max_tokens: int = 256
    """Most tokens to add to the prompt."""
    past_context: PastContext = "slide"
    """Where the context is full: slide (read the newer half again and go on) or stop."""
    logprobs: int | None = None
    """Report the log-probability of each token under the model itself, and of so many of the likeliest [0 to 20]."""
    seed: int = 0
    """Decides every draw; sample i of a prompt is the same however many are asked for."""


PRESETS = {
    "greedy": SamplingConfig(temperature=0.0),
    "conservative": SamplingConfig(temperature=0.6, top_k=40),
    "nucleus": SamplingConfig(temperature=0.8, top_p=0.9),
}


def check_sampling(config: SamplingConfig, *, vocab_size: int | None = None) -> None:
    """Refuse values that mean nothing.

    Args:
        config: to be checked.
        vocab_size: where it is known, biased ids are checked too.

    Raises:
        ConfigError: every wrong value at once.
    """
    ids = [token_id for token_id, _ in config.logit_bias]
    biases = [bias for _, bias in config.logit_bias]
    rules = {
        "temperature": (math.isfinite(config.temperature) and config.temperature >= 0, "0 or more"),
        "top_k": (config.top_k >= 0, "0 (off) or more"),
        "top_p": (0 < config.top_p <= 1, "more than 0, at most 1"),
        "min_p": (0 <= config.min_p <= 1, "0 (off) to 1"),
        "repetition_penalty": (
            math.isfinite(config.repetition_penalty) and config.repetition_penalty > 0,
            "more than 0 (1 is off)",
        ),
        "presence_penalty": (abs(config.presence_penalty) <= 100, "-100 to 100 (0 is off)"),
        "frequency_penalty": (abs(config.frequency_penalty) <= 100, "-100 to 100 (0 is off)"),
        "logit_bias": (
            len(set(ids)) == len(ids)
            and all(0 <= i < (vocab_size or math.inf) for i in ids)
            and all(abs(b) <= 100 or b == -math.inf for b in biases),
            f"token ids{'' if vocab_size is None else f' below {vocab_size:,}'}, each once, with -100 to 100 or -inf",
        ),
        "stop": (all(config.stop), "texts that are not empty"),
        "max_tokens": (config.max_tokens >= 1, "at least 1"),
        "past_context": (config.past_context in ("slide", "stop"), '"slide" or "stop"'),
        "logprobs": (config.logprobs is None or 0 <= config.logprobs <= MOST_LOGPROBS, f"0 to {MOST_LOGPROBS}"),
        "seed": (0 <= config.seed < 2**63, "0 or more, below 2^63"),
    }
    wrong = [f"{name} = {getattr(config, name)}: must be {allowed}" for name, (ok, allowed) in rules.items() if not ok]
    if not wrong and vocab_size is not None and len([b for b in biases if b == -math.inf]) == vocab_size:
        wrong = ["logit_bias: forbids every token; leave at least one"]
    if wrong:
        raise ConfigError(wrong)


def of_sample(sampling: SamplingConfig, sample: int) -> SamplingConfig:
    """The options of one of several samples: the same, with a seed of its own."""
    return replace(sampling, seed=(sampling.seed * 1_000_003 + sample) % 2**63)


def rows_of(configs: Sequence[SamplingConfig], *, vocab_size: int, device: str = "cpu") -> Rows:
    """The options of a batch, one configuration per row, as tensors; made again only when the batch changes."""
    return Rows(
        vocab_size=vocab_size,
        device=device,
        temperature=[config.temperature for config in configs],
        top_k=[config.top_k for config in configs],
        top_p=[config.top_p for config in configs],
        min_p=[config.min_p for config in configs],
        repetition=[config.repetition_penalty for config in configs],
        presence=[config.presence_penalty for config in configs],
        frequency=[config.frequency_penalty for config in configs],
        bias=[config.logit_bias for config in configs],
    )


def filter_logits(logits: Float[Tensor, "B V"], config: SamplingConfig) -> Float[Tensor, "B V"]:
    """Apply temperature, top-k, top-p and min-p: what is cut becomes -inf. Temperature must not be 0.

    Tokens as likely as the last one that top-k keeps are kept too; top-p breaks such ties by the smaller id.
    """
    rows = rows_of([config] * len(logits), vocab_size=logits.shape[-1], device=logits.device.type)
    return filter_rows(logits, rows)


def sample_tokens(
    logits: Float[Tensor, "B V"],
    seen: Int[Tensor, "B S"],
    config: SamplingConfig,
    uniforms: Float[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """The next token of each sequence, all with the same options.

    Args:
        logits: of the last position.
        seen: all tokens of each sequence so far, taken as its prompt: presence and frequency do not count them.
        config: checked.
        uniforms: one number in [0, 1) per sequence; it alone decides the draw.
    """
    rows = rows_of([config] * len(logits), vocab_size=logits.shape[-1], device=logits.device.type)
    is_seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, seen, True)
    return draw_rows(logits, rows, uniforms, is_seen=is_seen, counts=logits.new_zeros(logits.shape))
