"""How many parameters and floating-point operations a shape has, without building it."""

from dataclasses import dataclass

from smalllm.config import ModelConfig
from smalllm.recipes.resolve import resolve_shape


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters by part, without the rows that pad the vocabulary; a tied matrix is counted once.

    Attributes:
        embedding: token and learned position vectors.
        blocks: everything in the blocks, and the final norm.
        head: the output matrix; 0 when it is the token embedding.
        multiplying: those that multiply activations: what FLOPs are counted from. Learned positions and an untied
            token embedding are only looked up; a tied matrix multiplies once, as the head.
    """

    embedding: int
    blocks: int
    head: int
    multiplying: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.blocks + self.head


def count_parameters(config: ModelConfig, *, vocab_size: int) -> ParameterCount:
    """Count the parameters of `GPT(config, vocab_size=vocab_size)`, padding rows left out."""
    c = resolve_shape(config)
    assert c.d_head is not None and c.n_kv_heads is not None and c.d_ff is not None
    d, d_q, d_kv = c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    n_mlp_inputs = 2 if c.mlp == "swiglu" else 1
    matrices = 2 * d * d_q + 2 * d * d_kv + (n_mlp_inputs + 1) * d * c.d_ff
    biases = (d_q + d + 2 * d_kv + n_mlp_inputs * c.d_ff + d) if c.bias else 0
    norm = 2 * d if c.norm == "layernorm" and c.bias else d
    qk_norm = 2 * c.d_head if c.qk_norm else 0
    blocks = c.n_layers * (matrices + biases + 2 * norm + qk_norm) + norm
    positions = c.context_length * d if c.position == "learned" else 0
    table = vocab_size * d
    return ParameterCount(
        embedding=table + positions,
        blocks=blocks,
        head=0 if c.tie_embeddings else table,
        multiplying=blocks + table,
    )


def flops_per_token(config: ModelConfig, *, vocab_size: int) -> int:
    """Floating-point operations to train on one token, forward and backward.

    6 N + 12 n_layers n_heads d_head context_length, with N the parameters that multiply.
    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    n = count_parameters(config, vocab_size=vocab_size).multiplying
    d_q = config.n_heads * (config.d_head or config.d_model // config.n_heads)
    return 6 * n + 12 * config.n_layers * d_q * config.context_length
