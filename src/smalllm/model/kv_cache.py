"""Keys and values of the positions already seen, so that each new token costs one position's work."""

import torch
from jaxtyping import Bool, Float, Int
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

    def places(self, n_queries: int, *, device: torch.device) -> Int[Tensor, " T"]:
        """The positions of so many new tokens."""
        return torch.arange(self.length, self.length + n_queries, device=device)

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


class SlotCache:
    """Keys and values of sequences of different lengths; takes one new token of some of them at a time.

    Args:
        keys: storage of all slots [layers slots G P K].
        values: the same shape.
        positions: of the new token of each sequence, which is how many its slot holds.
        slots: where the sequences are; None: all slots, in order, which saves a copy.
        n_keys: positions that attention looks at; more than every one of `positions`.
    """

    def __init__(
        self,
        keys: Float[Tensor, "L N G P K"],
        values: Float[Tensor, "L N G P K"],
        positions: Int[Tensor, " B"],
        *,
        slots: Int[Tensor, " B"] | None,
        n_keys: int,
    ) -> None:
        self.keys, self.values, self.positions, self.n_keys = keys, values, positions, n_keys
        self.slots = slots
        self._rows = torch.arange(len(positions), device=positions.device) if slots is None else slots

    def places(self, n_queries: int, *, device: torch.device) -> Int[Tensor, "B 1"]:
        """The positions of the new tokens."""
        return self.positions[:, None]

    def append(
        self, layer: int, k: Float[Tensor, "B G 1 K"], v: Float[Tensor, "B G 1 K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Store the new keys and values of a layer; return those of the positions that attention looks at."""
        found = []
        for new, stored in ((k, self.keys[layer]), (v, self.values[layer])):
            stored[self._rows, :, self.positions] = new[:, :, 0].to(stored.dtype)
            some = stored[:, :, : self.n_keys]
            found.append((some if self.slots is None else some[self.slots]).to(new.dtype))
        return found[0], found[1]

    def mask(self, n_queries: int, *, device: torch.device) -> Bool[Tensor, "B 1 1 S"]:
        """Each sequence sees its own positions, the new one included."""
        return (torch.arange(self.n_keys, device=device) <= self.positions[:, None])[:, None, None]

    def advance(self, n_positions: int) -> None:
        """Nothing: whoever asks next says the positions."""


Cache = KVCache | SlotCache
