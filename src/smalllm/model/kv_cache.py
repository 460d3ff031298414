"""Keys and values of the positions already seen, so that each new token costs one position's work."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smalllm.config import ModelConfig


class KVCache:
    """Room for `n_positions` keys and values of `n_sequences` sequences, allocated once.

    All sequences have the same length; `length` says how many positions are filled.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        n_sequences: int,
        n_positions: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        kv_heads = config.n_kv_heads or config.n_heads
        shape = (config.n_layers, n_sequences, kv_heads, n_positions, config.d_head or config.d_model // config.n_heads)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(
        self, layer: int, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Store the newest keys and values of a layer; return those of all positions so far, the new included."""
        stop = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : stop] = k
        self.values[layer, :, :, self.length : stop] = v
        return self.keys[layer, :, :, :stop].to(k.dtype), self.values[layer, :, :, :stop].to(v.dtype)

    def mask(self, n_queries: int, *, device: torch.device) -> Bool[Tensor, "T S"] | None:
        """Which key positions each new query may see; None when it may see all (a single query)."""
        if n_queries == 1:
            return None
        n_keys = self.length + n_queries
        return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(self.length)

    def advance(self, n_positions: int) -> None:
        """Count positions as filled, after every layer has appended them."""
        self.length += n_positions
