"""What `smalllm explain` found out about a run and a prompt, as plain numbers: what the page is made of."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptToken:
    """One token of the prompt."""

    id: int
    text: str
    """Bytes that are no whole character are written as \\x…; a special token in angle brackets."""
    bits: float | None
    """Surprise [bits]; None for the first, which has nothing before it."""
    alternatives: tuple[tuple[str, float], ...]
    """The likeliest tokens here and their probabilities, likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensCell:
    """What the model would answer at one position, stopped at one depth."""

    text: str
    """The likeliest next token."""
    probability: float
    entropy_bits: float
    is_right: bool
    """Whether it is the token that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the model: what it adds to the residual stream of the prompt."""

    name: str
    norm: float
    """Length of what it adds, mean over positions."""
    effect: float
    """Its direct effect on the logit of the right token above the mean logit, mean over positions."""
    effects: tuple[float, ...]
    """The same at each position that has a next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One attention head; layers and heads count from 1."""

    layer: int
    head: int
    distance: float
    """How far back it looks [tokens], mean over queries, as are the next two."""
    entropy_bits: float
    first_share: float
    histogram: tuple[float, ...]
    """Share of its attention in each bin of distances."""
    previous: float | None
    """Scores on repeated random tokens; None where there are none."""
    duplicate: float | None
    induction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The test on random tokens that come twice."""

    n_tokens: int
    n_texts: int
    first_bits: float
    second_bits: float
    previous_chance: float
    copy_chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything on the page. The fields but `maps` are what `explain.json` holds."""

    run: str
    recipe: str
    checkpoint: str
    step: int
    parameters: int
    vocab_size: int
    prompt: str
    tokens: tuple[PromptToken, ...]
    lens: tuple[tuple[LensCell, ...], ...]
    """By depth (0: the embedding) and position."""
    parts: tuple[Part, ...]
    stream_norm: float
    """Length of the residual stream after the last block, mean over positions."""
    n_layers: int
    n_heads: int
    heads: tuple[Head, ...]
    """By layer, then head."""
    distance_bins: tuple[int, ...]
    """Where each bin of distances begins [tokens]."""
    repeated: Repeated | None
    loss_by_position: tuple[tuple[int, int, float], ...]
    """First and last position of a bin, and the loss there [nats/token]; position 1 predicts from one token."""
    heads_measured_on: str
    """What text the looks of heads were measured on."""
    loss_measured_on: str
    """What text the loss by position was measured on."""
    notices: tuple[str, ...]
    """What was cut or could not be had."""
    maps: NDArray[np.uint8]
    """Attention weights [layers heads queries keys], 255 · sqrt(weight): of the first positions of the prompt."""

    @property
    def mean_bits(self) -> float:
        """Mean surprise of the tokens that have one [bits]."""
        bits = [token.bits for token in self.tokens if token.bits is not None]
        return sum(bits) / len(bits)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: without the attention maps."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "maps"} | {
            "mean_bits": self.mean_bits
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)} if is_dataclass(value) else value
