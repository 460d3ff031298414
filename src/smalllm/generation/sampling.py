"""From logits to the next token.

The order is that of Hugging Face's generate: repetition penalty, temperature, top-k, top-p. Temperature 0 is greedy.
Source: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Keskar et al. 2019 (repetition penalty).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens whose probabilities reach p together [more than 0 to 1]."""
    repetition_penalty: float = 1.0
    """Make tokens that occurred less likely: their logits are divided (if positive) or multiplied by it."""
    max_tokens: int = 256
    """Most tokens to add to the prompt."""
    seed: int = 0
    """Decides every draw; sample i of a prompt is the same however many are asked for."""


PRESETS = {
    "greedy": SamplingConfig(temperature=0.0),
    "conservative": SamplingConfig(temperature=0.6, top_k=40),
    "nucleus": SamplingConfig(temperature=0.8, top_p=0.9),
}


def check_sampling(config: SamplingConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        ConfigError: every wrong value at once.
    """
    rules = {
        "temperature": (math.isfinite(config.temperature) and config.temperature >= 0, "0 or more"),
        "top_k": (config.top_k >= 0, "0 (off) or more"),
        "top_p": (0 < config.top_p <= 1, "more than 0, at most 1"),
        "repetition_penalty": (
            math.isfinite(config.repetition_penalty) and config.repetition_penalty > 0,
            "more than 0 (1 is off)",
        ),
        "max_tokens": (config.max_tokens >= 1, "at least 1"),
        "seed": (0 <= config.seed < 2**63, "0 or more, below 2^63"),
    }
    wrong = [f"{name} = {getattr(config, name)}: must be {allowed}" for name, (ok, allowed) in rules.items() if not ok]
    if wrong:
        raise ConfigError(wrong)


def penalize_repetition(logits: Float[Tensor, "B V"], seen: Int[Tensor, "B S"], penalty: float) -> Float[Tensor, "B V"]:
    """Make the tokens in `seen` less likely (for a penalty above 1), each once however often it occurred."""
    at = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(at > 0, at / penalty, at * penalty))


def filter_logits(logits: Float[Tensor, "B V"], config: SamplingConfig) -> Float[Tensor, "B V"]:
    """Apply temperature, top-k and top-p: what is cut becomes -inf. Temperature must not be 0.

    Tokens as likely as the last one that top-k keeps are kept too; top-p breaks such ties by the smaller id.
    """
    if 0 < config.top_k < logits.shape[-1]:  # before the division, whose rounding could tie what is not tied
        kth = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    order = logits.argsort(dim=-1, descending=True, stable=True)  # as above: before rounding can tie anything
    # The largest logit becomes 0 first, so that a tiny temperature gives -inf to the others and never inf - inf.
    temperature = max(config.temperature, torch.finfo(torch.float32).tiny)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if config.top_p < 1.0:
        probabilities = logits.gather(-1, order).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens; 0 for the first
        cut = (before >= config.top_p).scatter(-1, order, before >= config.top_p)
        logits = logits.masked_fill(cut, -torch.inf)
    return logits


def sample_tokens(
    logits: Float[Tensor, "B V"],
    seen: Int[Tensor, "B S"],
    config: SamplingConfig,
    uniforms: Float[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """The next token of each sequence.

    Args:
        logits: of the last position.
        seen: all tokens of each sequence so far.
        config: checked.
        uniforms: one number in [0, 1) per sequence; it alone decides the draw.
    """
    logits = logits.float()
    if config.repetition_penalty != 1.0:
        logits = penalize_repetition(logits, seen, config.repetition_penalty)
    if config.temperature == 0.0:
        return logits.argmax(-1)
    cumulative = filter_logits(logits, config).softmax(-1).double().cumsum(-1)
    target = uniforms.double()[:, None] * cumulative[:, -1:]
    return (cumulative <= target).sum(-1).clamp(max=logits.shape[-1] - 1)
