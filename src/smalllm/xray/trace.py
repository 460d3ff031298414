"""The forward pass once more, slowly, keeping everything in between.

The fast pass (`model/gpt.py`) never holds attention weights: its kernels do not write them down. This one does, with
the model's own modules and the softmax written out. A test holds the two to the same result for every kind of model.

Axes as in `model/gpt.py`: B batch, T query positions, S key positions, D d_model, H query heads, K d_head, V vocab.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalllm.model.documents import Documents
from smalllm.model.gpt import GPT, Angles, Attention, Block, rotate


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """One block's work.

    Attributes:
        attention: how much of its attention each query gives to each key; every row sums to 1.
        attention_added: what attention adds to the residual stream.
        after_attention: the stream then.
        mlp_added: what the MLP adds.
        after_mlp: the stream then: what the next block reads.
    """

    attention: Float[Tensor, "B H T T"]
    attention_added: Float[Tensor, "B T D"]
    after_attention: Float[Tensor, "B T D"]
    mlp_added: Float[Tensor, "B T D"]
    after_mlp: Float[Tensor, "B T D"]


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole forward pass.

    Attributes:
        token_ids: what went in.
        embedded: the residual stream before the first block: token, and learned position, vectors.
        layers: the blocks, first to last.
        logits: of the next token, real ids only.
    """

    token_ids: Int[Tensor, "B T"]
    embedded: Float[Tensor, "B T D"]
    layers: tuple[LayerTrace, ...]
    logits: Float[Tensor, "B T V"]

    @property
    def stream(self) -> Float[Tensor, "B T D"]:
        """The residual stream after the last block, before the final norm."""
        return self.layers[-1].after_mlp if self.layers else self.embedded


@torch.no_grad()
def trace(model: GPT, token_ids: Int[Tensor, "B T"], *, documents: Documents | None = None) -> Trace:
    """Run the model without dropout, and keep the attention weights and the stream after each part.

    Memory grows with n_layers · H · T²: callers with long inputs cut them.

    Args:
        model: on the device of `token_ids`; its arithmetic is that of its weights (FP32), not of a run's precision.
        token_ids: at most `context_length` positions.
        documents: given, each position sees its own document only, as in the fast pass.
    """
    x = embedded = model.token_embedding(token_ids)  # [B T D]
    n_positions = token_ids.shape[1]
    places = torch.arange(n_positions, device=x.device)  # [T]
    mask = torch.ones(n_positions, n_positions, dtype=torch.bool, device=x.device).tril()
    if documents is not None:
        places, mask = documents.positions, documents.mask  # [B T], [B 1 T T]
    angles = None
    if model.position_embedding is not None:
        x = embedded = x + model.position_embedding(places)
    else:
        angles = model.cos[places].unsqueeze(-3), model.sin[places].unsqueeze(-3)
    layers = []
    for block in model.blocks:
        assert isinstance(block, Block)
        layers.append(_trace_block(block, x, angles, mask))
        x = layers[-1].after_mlp
    return Trace(token_ids=token_ids, embedded=embedded, layers=tuple(layers), logits=read_out(model, x))


@torch.no_grad()
def read_out(model: GPT, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
    """The logits that the model would give if the residual stream were this: final norm, then head."""
    logits: Tensor = model.lm_head(model.norm(stream))
    return logits[..., : model.vocab_size]


def _trace_block(
    block: Block, x: Float[Tensor, "B T D"], angles: Angles | None, mask: Bool[Tensor, "... T T"]
) -> LayerTrace:
    weights, added = _attend(block.attention, block.attention_norm(x), angles, mask)
    after_attention = x + added
    normed = block.mlp_norm(after_attention)
    mlp = block.mlp
    up = mlp.up(normed)  # [B T F]
    if mlp.gate is None:
        inner = torch.nn.functional.gelu(up, approximate="tanh")
    else:
        inner = torch.nn.functional.silu(mlp.gate(normed)) * up
    mlp_added = mlp.down(inner)
    return LayerTrace(weights, added, after_attention, mlp_added, after_attention + mlp_added)


def _attend(
    attention: Attention, x: Float[Tensor, "B T D"], angles: Angles | None, mask: Bool[Tensor, "... T T"]
) -> tuple[Float[Tensor, "B H T T"], Float[Tensor, "B T D"]]:
    """The weights of every head, and what all heads together add."""
    q = attention.q(x).unflatten(-1, (attention.n_heads, attention.d_head)).transpose(1, 2)  # [B H T K]
    k = attention.k(x).unflatten(-1, (attention.n_kv_heads, attention.d_head)).transpose(1, 2)  # [B G T K]
    v = attention.v(x).unflatten(-1, (attention.n_kv_heads, attention.d_head)).transpose(1, 2)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if angles is not None:
        q, k = rotate(q, *angles), rotate(k, *angles)
    repeats = attention.n_heads // attention.n_kv_heads
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)  # [B H T K]
    scores = q @ k.transpose(-1, -2) / math.sqrt(attention.d_head)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    added: Tensor = attention.out((weights @ v).transpose(1, 2).flatten(2))
    return weights, added
