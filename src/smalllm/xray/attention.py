"""Where attention heads look: how far back, how narrowly, and how much of it rests on the first token.

For a query at position t with weights a(t, s) over the keys s <= t that it sees:

    distance      sum over s of a(t, s) (t - s)              [tokens]
    entropy       - sum over s of a(t, s) log2 a(t, s)       [bits]; 0 looks at one token, log2 (t + 1) at all alike
    first share   a(t, first), t > first                     many heads rest there when they find nothing to do

each averaged over queries. Source: Vig and Belinkov 2019 (distance, entropy); Xiao et al. 2023 (the first token as a
place to rest, "attention sink").
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalllm.xray.trace import Trace


@dataclass(frozen=True, slots=True)
class Looks:
    """Means over queries, for each layer L and head H.

    Attributes:
        distance: how far back a head looks [tokens].
        entropy_bits: how spread its attention is [bits].
        first_share: share of the attention that is on the first token; queries that are the first are left out.
        histogram: share of the attention in each bin of distances; sums to 1 over the bins.
    """

    distance: Float[Tensor, "L H"]
    entropy_bits: Float[Tensor, "L H"]
    first_share: Float[Tensor, "L H"]
    histogram: Float[Tensor, "L H N"]


def distance_bins(n_positions: int) -> list[int]:
    """Where the bins of distances begin: 0, 1, 2, 4, 8, … below `n_positions`; each ends where the next begins."""
    return [0, *(2**i for i in range(max(0, math.ceil(math.log2(n_positions)))))]


def looks(traces: Iterable[tuple[Trace, Bool[Tensor, "B T T"], Bool[Tensor, "B T"]]], *, n_positions: int) -> Looks:
    """Average over texts.

    Args:
        traces: of each batch, the keys that each query may see, and which queries count. They are taken one after the
            other, so that one batch of attention weights is in memory at a time.
        n_positions: length of the longest text, for the bins.

    Raises:
        ValueError: no query counts.
    """
    total: Tensor | None = None
    n_queries = n_later = 0
    for traced, visible, counts in traces:
        first = visible.int().argmax(dim=-1)  # [B T], the first key that a query sees
        places = torch.arange(visible.shape[-1], device=first.device)
        is_later = counts & (first < places)
        sums = [_sums(layer.attention, first, counts, is_later, n_positions) for layer in traced.layers]
        total = torch.stack(sums) if total is None else total + torch.stack(sums)  # [L H 3+N]
        n_queries, n_later = n_queries + int(counts.sum()), n_later + int(is_later.sum())
    if total is None or n_queries == 0:
        raise ValueError("no query to look at")
    means = total.cpu() / n_queries
    return Looks(means[..., 0], means[..., 1], means[..., 2] * n_queries / max(1, n_later), means[..., 3:])


def _sums(
    attention: Float[Tensor, "B H T T"],
    first: Int[Tensor, "B T"],
    counts: Bool[Tensor, "B T"],
    is_later: Bool[Tensor, "B T"],
    n_positions: int,
) -> Float[Tensor, "H M"]:
    """Distance, entropy, first share and histogram, summed over the queries that count."""
    n_heads, n_keys = attention.shape[1], attention.shape[-1]
    places = torch.arange(n_keys, device=attention.device)
    distances = (places[:, None] - places[None]).clamp(min=0)  # [T T], of what is seen
    counted = attention * counts[:, None, :, None]
    at_first = attention.gather(-1, first[:, None, :, None].expand(-1, n_heads, -1, 1)).squeeze(-1)  # [B H T]
    starts = torch.tensor(distance_bins(n_positions), device=attention.device)
    bins = torch.bucketize(distances, starts, right=True) - 1  # [T T]
    by_pair = counted.sum(dim=0).flatten(1)  # [H T·T]
    histogram = torch.zeros(n_heads, len(starts), device=attention.device)
    histogram.index_add_(1, bins.flatten(), by_pair)
    singles = [
        (by_pair * distances.flatten()).sum(dim=-1),
        -torch.xlogy(counted, counted).sum(dim=(0, 2, 3)) / math.log(2),
        (at_first * is_later[:, None]).sum(dim=(0, 2)),
    ]
    return torch.cat([torch.stack(singles, dim=-1), histogram], dim=-1)
