"""A decoder-only transformer, whole in one file. The forward pass:

    x = embed(token_ids)                                   [B T]   -> [B T D]
    for each block:
        q, k, v = heads(project(norm(x))), q and k rotated [B T D] -> [B H T K], [B G S K] twice
        x = x + project(attend(q, k, v))                   softmax(q k^T / sqrt(K)) v, causal
        x = x + mlp(norm(x))                               D -> F -> D
    logits = head(norm(x))                                 [B T D] -> [B T V]

Axes: B batch, T query positions, S key positions, D d_model, H query heads, G key/value heads, K d_head,
F d_ff, V vocab. The axes of choice (norm, mlp, position, qk_norm, ties, biases) are those of `ModelConfig`.
Initial values are in `init.py`, counts in `count.py`, the cache of keys and values in `kv_cache.py`, the mask for
windows of several documents in `documents.py`.

Source: Vaswani et al. 2017; Radford et al. 2019 (pre-norm, tanh GELU); Su et al. 2021 (RoPE); Zhang and Sennrich
2019 (RMSNorm); Shazeer 2020 (SwiGLU); Henry et al. 2020 (query-key normalisation).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smalllm.config import ModelConfig
from smalllm.model import cpu_attention
from smalllm.model.documents import Documents
from smalllm.model.dropout import NO_KEYS, Key, Keys, draw_keys, dropout
from smalllm.model.kv_cache import Cache
from smalllm.recipes.resolve import resolve_shape

Angles = tuple[Float[Tensor, "... T K"], Float[Tensor, "... T K"]]
VOCAB_MULTIPLE = 64  # rows of the vocabulary matrices come in blocks that matrix kernels like


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the vocabulary matrices: `vocab_size` rounded up to a multiple of 64."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation that `config.norm` names, over the last axis [D]."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)


def rotary_angles(d_head: int, *, n_positions: int, theta: float) -> tuple[Float[Tensor, "S K"], Float[Tensor, "S K"]]:
    """Cosine and sine of the angle of each position and dimension, in FP32.

    Dimension pairs are (i, i + K/2), the "rotate-half" layout of Llama and Hugging Face; pair i turns by
    theta^(-2i/K) radians a position. Source: Su et al. 2021, section 3.4.2.
    """
    frequencies = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(
    x: Float[Tensor, "B H T K"], cos: Float[Tensor, "... T K"], sin: Float[Tensor, "... T K"]
) -> Float[Tensor, "B H T K"]:
    """Turn each pair of dimensions by its position's angle, so that q.k depends on distance alone."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads: heads H/G share one key and value."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d_model, kv_heads = config.d_model, config.n_kv_heads or config.n_heads
        self.layer, self.n_heads, self.n_kv_heads = layer, config.n_heads, kv_heads
        self.d_head, self.dropout = config.d_head or d_model // config.n_heads, config.dropout
        self.q = nn.Linear(d_model, config.n_heads * self.d_head, bias=config.bias)
        self.k = nn.Linear(d_model, kv_heads * self.d_head, bias=config.bias)
        self.v = nn.Linear(d_model, kv_heads * self.d_head, bias=config.bias)
        self.out = nn.Linear(config.n_heads * self.d_head, d_model, bias=config.bias)
        self.q_norm = nn.RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        angles: Angles | None,
        cache: Cache | None,
        mask: Bool[Tensor, "B 1 T T"] | None = None,
        keys: Keys = NO_KEYS,
    ) -> Float[Tensor, "B T D"]:
        n_batch, n_queries, _ = x.shape
        q = self.q(x).view(n_batch, n_queries, self.n_heads, self.d_head).transpose(1, 2)  # [B H T K]
        k = self.k(x).view(n_batch, n_queries, self.n_kv_heads, self.d_head).transpose(1, 2)  # [B G T K]
        v = self.v(x).view(n_batch, n_queries, self.n_kv_heads, self.d_head).transpose(1, 2)
        q, k = self.q_norm(q.float()).to(v.dtype), self.k_norm(k.float()).to(v.dtype)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is not None:
            mask = cache.mask(n_queries, device=x.device)
            k, v = cache.append(self.layer, k, v)  # [B G S K]
        y = self.attend(q, k, v, mask, keys[0], is_whole=cache is None)  # [B H T K]
        return dropout(self.out(y.transpose(1, 2).flatten(2)), self.dropout, keys[1], training=self.training)

    def attend(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        mask: Bool[Tensor, "... T S"] | None,
        key: Key | None,
        *,
        is_whole: bool,
    ) -> Float[Tensor, "B H T K"]:
        """Softmax of the scaled scores, times the values, by the fastest kernel there is.

        Without a mask, a query of a whole sequence sees itself and what comes before it; one that continues a cache
        sees everything.
        """
        is_grouped = self.n_kv_heads != self.n_heads
        rate = self.dropout if self.training else 0.0
        if is_whole and cpu_attention.pays(q, rate=rate, key=key):
            return cpu_attention.attend(q, k, v, mask, rate=rate, key=key)
        if is_grouped and is_whole and mask is not None:  # no fast kernel takes groups and a mask
            repeats, is_grouped = self.n_heads // self.n_kv_heads, False
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        is_causal = is_whole and mask is None
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=rate, is_causal=is_causal, enable_gqa=is_grouped
        )


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU with its tanh approximation; compiled on a CPU as x sigmoid(2u), the same in half the time.

    Source: Hendrycks and Gimpel 2016, for both forms; (1 + tanh u) / 2 = sigmoid(2u).
    """
    if not (torch.compiler.is_compiling() and x.device.type == "cpu"):
        return F.gelu(x, approximate="tanh")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(math.sqrt(8 / math.pi) * (wide + 0.044715 * wide**3))).to(x.dtype)


class Mlp(nn.Module):
    """gelu(x W) W', or (silu(x W_gate) * (x W)) W'."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_ff = config.d_ff or 4 * config.d_model
        self.dropout = config.dropout
        self.up = nn.Linear(config.d_model, d_ff, bias=config.bias)
        self.gate = nn.Linear(config.d_model, d_ff, bias=config.bias) if config.mlp == "swiglu" else None
        self.down = nn.Linear(d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"], key: Key | None = None) -> Float[Tensor, "B T D"]:
        up = self.up(x)  # [B T F]
        inner = gelu(up) if self.gate is None else F.silu(self.gate(x)) * up
        return dropout(self.down(inner), self.dropout, key, training=self.training)


class Block(nn.Module):
    """Attention and MLP, each added to the stream that it reads through a norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        angles: Angles | None,
        cache: Cache | None,
        mask: Bool[Tensor, "B 1 T T"] | None = None,
        keys: Keys = NO_KEYS,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.attention_norm(x), angles, cache, mask, keys)
        return x + self.mlp(self.mlp_norm(x), keys[2])


class GPT(nn.Module):
    """The whole model. New weights come from `init.init_weights`; the constructor's own are not for use.

    Args:
        config: the shape; absent `d_head`, `n_kv_heads` and `d_ff` are derived.
        vocab_size: real token ids. The matrices have `padded_vocab_size` rows; the rows past `vocab_size` never
            reach logits, loss or samples, and get no gradient.
    """

    cos: Tensor
    sin: Tensor
    recompute_every: int = 0
    """In training, every so-many-th block keeps its input only and computes the rest again for the backward pass."""

    def __init__(self, config: ModelConfig, *, vocab_size: int) -> None:
        super().__init__()
        config = resolve_shape(config)
        self.config, self.vocab_size = config, vocab_size
        n_rows, d_model = padded_vocab_size(vocab_size), config.d_model
        self.token_embedding = nn.Embedding(n_rows, d_model)
        learned = config.position == "learned"
        self.position_embedding = nn.Embedding(config.context_length, d_model) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config)
        self.lm_head = nn.Linear(d_model, n_rows, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight
        d_head = config.d_head or d_model // config.n_heads
        cos, sin = rotary_angles(d_head, n_positions=config.context_length, theta=config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(
        self, token_ids: Int[Tensor, "B T"], *, cache: Cache | None = None, documents: Documents | None = None
    ) -> Float[Tensor, "B T D"]:
        """The normalised last layer, before the head.

        With a cache, `token_ids` continue what it holds, and their keys and values are added to it. With documents,
        each position sees its own document only, and counts from its start; a cache holds one document.
        """
        assert cache is None or documents is None, "a cache holds one document"
        x, n_queries = self.token_embedding(token_ids), token_ids.shape[1]  # [B T D]
        places, mask = torch.arange(n_queries, device=x.device), None  # [T]
        if cache is not None:
            places = cache.places(n_queries, device=x.device)  # [T], or [B 1]
        if documents is not None:
            places, mask = documents.positions, documents.mask  # [B T], [B 1 T T]
        angles = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(places)
        else:
            angles = self.cos[places].unsqueeze(-3), self.sin[places].unsqueeze(-3)  # [1 T K] or [B 1 T K], twice
        keys = [NO_KEYS] * (1 + len(self.blocks))
        if self.training and self.config.dropout and x.device.type == "cpu":
            keys = draw_keys(len(keys), device=x.device)
        x = dropout(x, self.config.dropout, keys[-1][0], training=self.training)
        for number, block in enumerate(self.blocks):
            if self.training and self.recompute_every and number % self.recompute_every == 0:
                draws = self.config.dropout > 0
                x = checkpoint(
                    block, x, angles, None, mask, keys[number], use_reentrant=False, preserve_rng_state=draws
                )
            else:
                x = block(x, angles, cache, mask, keys[number])
        if cache is not None:
            cache.advance(token_ids.shape[1])
        return self.norm(x)

    def forward(
        self, token_ids: Int[Tensor, "B T"], *, cache: Cache | None = None, documents: Documents | None = None
    ) -> Float[Tensor, "B T V"]:
        """Logits of the next token at each position, `[B T vocab_size]`.

        `T` plus what the cache holds must not exceed `config.context_length`; callers check this where users'
        input comes in.
        """
        return self.lm_head(self.hidden(token_ids, cache=cache, documents=documents))[..., : self.vocab_size]
