"""How surprised a model is by each token of a text, and what it expected instead.

The surprise of a token is -log2 of the probability that the model gave it, in bits: 0 for a certainty, 1 for a toss of
a coin. Its mean is the loss / ln 2. Source: Shannon 1948, section 6.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Surprise:
    """What a model thought of the tokens of one text, from the second position on.

    Attributes:
        bits: surprise of the token at positions 1 to T-1 [bits].
        alternative_ids: the likeliest tokens there, likeliest first.
        alternative_probabilities: and how likely.
    """

    bits: Float[Tensor, " N"]
    alternative_ids: Int[Tensor, "N A"]
    alternative_probabilities: Float[Tensor, "N A"]


def surprise(logits: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], *, n_alternatives: int = 5) -> Surprise:
    """Measure one text; its first token has nothing before it, and so no surprise.

    Args:
        logits: of the next token at each position.
        token_ids: the text.
        n_alternatives: how many of the likeliest tokens to name.
    """
    log_probs = logits[:-1].float().log_softmax(dim=-1)  # [T-1 V]
    bits = -log_probs.gather(-1, token_ids[1:, None]).squeeze(-1) / math.log(2)
    top = log_probs.topk(min(n_alternatives, logits.shape[-1]), dim=-1)
    return Surprise(bits=bits, alternative_ids=top.indices, alternative_probabilities=top.values.exp())


def entropy_bits(logits: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """How unsure a prediction is: the surprise that it expects of itself [bits]; log2 V where it knows nothing."""
    probabilities = logits.float().softmax(dim=-1)
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1) / math.log(2)
