"""The logit lens: what a model would answer if it stopped after each block.

The residual stream after each block goes through the final norm and the head, as the last one does. Blocks before the
last were never trained to be read this way, so an early answer is a hint, not what the model "thinks".
Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.model.gpt import GPT
from smalllm.xray.surprise import entropy_bits
from smalllm.xray.trace import Trace, read_out


@dataclass(frozen=True, slots=True)
class Lens:
    """Answers of one text by depth: row 0 reads the embedding, row l the stream after block l.

    Attributes:
        top_ids: the likeliest next token.
        top_probabilities: how likely it is.
        entropy_bits: how unsure the answer is [bits].
    """

    top_ids: Int[Tensor, "R T"]
    top_probabilities: Float[Tensor, "R T"]
    entropy_bits: Float[Tensor, "R T"]


def logit_lens(model: GPT, traced: Trace) -> Lens:
    """Read the first text of a traced batch at every depth."""
    streams = [traced.embedded, *(layer.after_mlp for layer in traced.layers)]
    ids, probabilities, entropies = [], [], []
    for stream in streams:  # one at a time: all logits of a deep model would not fit into memory
        logits = read_out(model, stream[:1])[0]  # [T V]
        best = logits.float().softmax(dim=-1).max(dim=-1)
        ids.append(best.indices)
        probabilities.append(best.values)
        entropies.append(entropy_bits(logits))
    return Lens(torch.stack(ids), torch.stack(probabilities), torch.stack(entropies))
