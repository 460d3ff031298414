"""The model size that makes the best use of some minutes on this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from smalllm import runtime
from smalllm.config import ModelConfig
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights

_D_HEAD = 64
_TRIAL_TOKENS = 4_096

# A larger model that sees fewer tokens than this is no better after the same time. A round number, not a tuned one.
TOKENS_PER_PARAMETER = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """Depth and width of a model; heads are 64 wide, the MLP twice as wide as the model."""

    n_layers: int
    d_model: int

    @property
    def n_heads(self) -> int:
        """Heads of width 64."""
        return self.d_model // _D_HEAD

    @property
    def d_ff(self) -> int:
        """Width of the MLP. The stories ask more of memory (attention) than of knowledge (the MLP)."""
        return 2 * self.d_model

    def of(self, config: ModelConfig) -> ModelConfig:
        """`config` in this size."""
        return replace(config, n_layers=self.n_layers, d_model=self.d_model, n_heads=self.n_heads, d_ff=self.d_ff)


# Smallest first. Shallow and wide: at equal cost they learn to copy from the context several times sooner than
# deep and narrow ones (docs/log.md).
SIZES = (Size(2, 128), Size(2, 192), Size(2, 256), Size(3, 320))


def measure_speed(
    config: ModelConfig, loss_function: Callable[[nn.Module, Tensor, Tensor], Tensor], *, vocab_size: int, device: str
) -> float:
    """How fast this machine trains a model of this shape, uncompiled [FLOP/s].

    Times a forward and backward pass of about 4,096 tokens, three times; takes a few seconds at most.

    Args:
        config: the shape.
        loss_function: from model, inputs and targets to the mean loss, as training uses it.
        vocab_size: real token ids.
        device: where to measure.
    """
    model = GPT(config, vocab_size=vocab_size)
    init_weights(model, seed=0)
    model.to(device).train()
    n_rows = max(1, _TRIAL_TOKENS // config.context_length)
    tokens = torch.zeros(n_rows, config.context_length, dtype=torch.int64, device=device)
    best_s = float("inf")
    for _ in range(3):
        started_at = time.perf_counter()
        loss_function(model, tokens, tokens).backward()
        runtime.synchronize(device)
        best_s = min(best_s, time.perf_counter() - started_at)
        model.zero_grad(set_to_none=True)
    return flops_per_token(config, vocab_size=vocab_size) * tokens.numel() / best_s


def size_for(config: ModelConfig, *, vocab_size: int, speed_flops: float, seconds: float) -> Size:
    """The largest of `SIZES` that sees `TOKENS_PER_PARAMETER` tokens for each of its parameters in the time.

    Args:
        config: the shape, of which depth, width, heads and MLP are replaced.
        vocab_size: real token ids.
        speed_flops: of training [FLOP/s].
        seconds: of training.
    """
    fitting = SIZES[0]
    for size in SIZES:
        seen = tokens_per_parameter(size.of(config), vocab_size=vocab_size, speed_flops=speed_flops, seconds=seconds)
        if seen >= TOKENS_PER_PARAMETER:
            fitting = size
    return fitting


def tokens_per_parameter(config: ModelConfig, *, vocab_size: int, speed_flops: float, seconds: float) -> float:
    """How many tokens a model of this shape sees for each of its parameters, at this speed in this time."""
    n_tokens = speed_flops * seconds / flops_per_token(config, vocab_size=vocab_size)
    return n_tokens / count_parameters(config, vocab_size=vocab_size).total
