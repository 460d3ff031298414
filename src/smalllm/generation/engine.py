"""The generation loop: fill the cache with the prompt, then one token at a time for all samples at once.

A sequence that outgrows the context keeps its newest tokens: when the cache is full, the last half of the context is
read in again and generation goes on from there. This is done openly: `Generation.n_dropped` counts what was forgotten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smalllm import runtime
from smalllm.errors import ConfigError
from smalllm.generation.sampling import SamplingConfig, check_sampling, sample_tokens
from smalllm.model.gpt import GPT
from smalllm.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation.

    Attributes:
        token_ids: the new tokens, without the end-of-document token.
        finish_reason: "stop" at the end-of-document token, else "length".
        n_dropped: oldest tokens that no longer fitted into the context when the last one was drawn.
    """

    token_ids: list[int]
    finish_reason: str
    n_dropped: int


@torch.inference_mode()
def generate_tokens(
    model: GPT,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    eos_id: int,
    n: int = 1,
    device: str = "cpu",
    precision: str = "fp32",
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue a prompt `n` times.

    Args:
        model: put into evaluation mode.
        prompt: token ids; empty: a new document. One longer than the context keeps its newest tokens.
        config: how to draw.
        eos_id: ends a sequence; also what an empty prompt starts from.
        n: how many continuations, drawn at once; sample i does not depend on n.
        device: where the model is.
        precision: of the matrix products.
        on_token: told (sample, token id) as each token is drawn.

    Raises:
        ConfigError: sampling values out of range, or n below 1.
    """
    check_sampling(config)
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")
    model.eval()
    start = list(prompt) or [eos_id]
    sequences = torch.tensor([start], device=device).repeat(n, 1)  # [B S]
    generators = [torch.Generator().manual_seed(_sample_seed(config.seed, i)) for i in range(n)]
    alive = torch.ones(n, dtype=torch.bool, device=device)
    reader = _Reader(model, device=device, precision=precision)
    made: list[list[int]] = [[] for _ in range(n)]
    dropped = [0] * n
    for _ in range(config.max_tokens):
        logits = reader.read(sequences)
        uniforms = torch.tensor([torch.rand((), generator=g).item() for g in generators], device=device)
        drawn = sample_tokens(logits, sequences, config, uniforms)
        drawn = torch.where(alive, drawn, eos_id)
        for i in alive.nonzero().flatten().tolist():
            dropped[i] = sequences.shape[1] - reader.n_visible
        sequences = torch.cat([sequences, drawn[:, None]], dim=1)
        alive &= drawn != eos_id
        for i in alive.nonzero().flatten().tolist():
            made[i].append(int(drawn[i]))
            if on_token is not None:
                on_token(i, made[i][-1])
        if not alive.any():
            break
    return [
        Generation(ids, "length" if is_alive else "stop", n_dropped)
        for ids, is_alive, n_dropped in zip(made, alive.tolist(), dropped, strict=True)
    ]


class _Reader:
    """Feeds growing sequences to the model, each token once while they fit into the context."""

    def __init__(self, model: GPT, *, device: str, precision: str) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.cache: KVCache | None = None
        self.n_read = 0

    @property
    def n_visible(self) -> int:
        """Positions that the last prediction could see."""
        return self.cache.length if self.cache is not None else 0

    def read(self, sequences: Tensor) -> Tensor:
        """Logits after the last token of each sequence [B V]."""
        context = self.model.config.context_length
        n_new = sequences.shape[1] - self.n_read
        if self.cache is None or self.cache.length + n_new > context:
            n_new = min(n_new, context) if self.cache is None else max(1, context // 2)
            self.cache = KVCache(
                self.model.config,
                n_sequences=sequences.shape[0],
                n_positions=context,
                dtype=runtime.product_dtype(self.precision),
                device=self.device,
            )
        self.n_read = sequences.shape[1]
        with runtime.autocast(self.device, self.precision):
            return self.model(sequences[:, -n_new:], cache=self.cache)[:, -1]


def _sample_seed(seed: int, sample: int) -> int:
    return (seed * 1_000_003 + sample) % 2**63
