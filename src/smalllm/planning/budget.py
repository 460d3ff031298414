"""The model and the number of tokens that make the best use of some minutes: which shapes, and which of them.

The rule: a model sees `COMPUTE_OPTIMAL` tokens for each of its parameters; of the shapes that the time pays so many
tokens for, the largest. Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", table 3:
about 20, fitted on models of 70M to 16B parameters on natural text. nanochat finds 10.5 for each parameter of matrices
and head at 100M to 1B, with Muon; for small models, whose embedding is a large part, both are nearly the same.

`sizes.py` has another rule, for the stories of `smalllm quickstart`: 1 token for each parameter. It bounds four sizes
from above, on text of a few bits per sentence that a model learns from little; on natural text a model so large for
its tokens would still be far from what a smaller one reaches in the time.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from smalllm.config import ModelConfig
from smalllm.planning.sizes import tokens_per_parameter

COMPUTE_OPTIMAL = 20.0
MIN_STEPS = 1_000  # updates of a run, or as many as its tokens give; a round number, not a tuned one
_MOST_LAYERS = 96


def shapes(config: ModelConfig) -> Iterator[ModelConfig]:
    """Shapes like this one, smallest first: its heads, its ratio of width to depth, 1 to 96 layers."""
    width_per_head = config.d_model // config.n_heads
    groups = config.n_heads // (config.n_kv_heads or config.n_heads)
    for n_layers in range(1, _MOST_LAYERS + 1):
        width = config.d_model * n_layers / config.n_layers
        n_heads = groups * max(1, round(width / width_per_head / groups))
        d_model = n_heads * width_per_head
        yield replace(
            config,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=None if config.n_kv_heads is None else n_heads // groups,
            d_model=d_model,
            d_ff=None if config.d_ff is None else -(-config.d_ff * d_model // config.d_model // 64) * 64,
        )


def best_shape(
    config: ModelConfig,
    *,
    vocab_size: int,
    speed_flops: float,
    seconds: float,
    fits: Callable[[ModelConfig], bool],
) -> ModelConfig:
    """The largest of `shapes` that sees `COMPUTE_OPTIMAL` tokens for each parameter and fits the memory.

    The smallest, where none does.

    Args:
        config: the shape that they are like.
        vocab_size: real token ids.
        speed_flops: of training [FLOP/s].
        seconds: of training.
        fits: whether memory holds it.
    """
    found = next(shapes(config))
    for shape in shapes(config):
        seen = tokens_per_parameter(shape, vocab_size=vocab_size, speed_flops=speed_flops, seconds=seconds)
        if seen < COMPUTE_OPTIMAL or not fits(shape):
            break
        found = shape
    return found


def tokens_per_step(asked: int, *, context_length: int, n_tokens: float) -> int:
    """The most of the asked tokens per update, cut evenly, that leave a run `MIN_STEPS` updates."""
    n_windows = asked // context_length
    fitting = [n for n in range(1, n_windows + 1) if n_windows % n == 0 and n * context_length * MIN_STEPS <= n_tokens]
    return max(fitting, default=1) * context_length
