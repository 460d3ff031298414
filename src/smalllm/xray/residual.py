"""What each part of a model adds to the residual stream, and what that does to the logit of the right token.

The stream after the last block is a sum: embedding + what each attention and each MLP added. The final norm divides it
by one number per position; with that number held as it came out, the logits are a sum as well, and each part has its
share in the logit of the token that follows. A constant added to all logits changes no probability, so a share is
counted above its mean over the vocabulary. The shares of all parts add up to the logit above the mean exactly.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (direct paths; freezing the norm).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalllm.model.gpt import GPT
from smalllm.xray.trace import Trace


@dataclass(frozen=True, slots=True)
class Contributions:
    """What the parts of a model do at each position of one text.

    Attributes:
        names: "embedding", "attention 1", "mlp 1", …, and "norm bias" where the final norm has one.
        norms: length of what each part adds to the stream; of the norm bias, its own.
        effects: direct effect on the logit of the token that follows, at positions 0 to T-2 [logit above the mean].
        stream_norms: length of the stream after the last block.
    """

    names: tuple[str, ...]
    norms: Float[Tensor, "P T"]
    effects: Float[Tensor, "P N"]
    stream_norms: Float[Tensor, " T"]


@torch.no_grad()
def contributions(model: GPT, traced: Trace) -> Contributions:
    """Take the first text of a traced batch apart.

    Args:
        model: that was traced.
        traced: its pass over a text of two tokens at least.
    """
    names, parts = ["embedding"], [traced.embedded[0]]
    for number, layer in enumerate(traced.layers, start=1):
        names += [f"attention {number}", f"mlp {number}"]
        parts += [layer.attention_added[0], layer.mlp_added[0]]
    stacked = torch.stack(parts)  # [P T D]
    effects = _effects(model, _normed(model, stacked, traced.stream[0]), traced.token_ids[0])
    norms = stacked.norm(dim=-1)
    bias = getattr(model.norm, "bias", None)
    if bias is not None:
        names.append("norm bias")
        row = bias.expand_as(stacked[0])
        norms = torch.cat([norms, row.norm(dim=-1)[None]])
        effects = torch.cat([effects, _effects(model, row[None], traced.token_ids[0])])
    return Contributions(tuple(names), norms.cpu(), effects.cpu(), traced.stream[0].norm(dim=-1).cpu())


def _normed(model: GPT, parts: Float[Tensor, "P T D"], stream: Float[Tensor, "T D"]) -> Float[Tensor, "P T D"]:
    """Each part as the final norm scales it, without the norm's bias, with the scale that the whole stream has."""
    norm = model.norm
    eps = model.config.norm_eps
    if isinstance(norm, nn.LayerNorm):
        parts, stream = parts - parts.mean(dim=-1, keepdim=True), stream - stream.mean(dim=-1, keepdim=True)
    scale = (stream.square().mean(dim=-1, keepdim=True) + eps).rsqrt()  # [T 1]
    assert isinstance(norm.weight, Tensor)
    return parts * scale * norm.weight


def _effects(model: GPT, normed: Float[Tensor, "P T D"], token_ids: Int[Tensor, " T"]) -> Float[Tensor, "P N"]:
    """The logits of the tokens that follow, above the mean over the vocabulary, of each part alone."""
    rows = model.lm_head.weight[: model.vocab_size]  # [V D]
    directions = rows[token_ids[1:]] - rows.mean(dim=0)  # [N D]
    return torch.einsum("ptd,td->pt", normed[:, :-1], directions)
