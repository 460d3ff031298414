"""The loss in parts: with so much context, on tokens so frequent; and how far off a mean may be.

    loss_stderr   standard error of the loss, windows (or documents) being the independent units:
                  sqrt(n / (n - 1) * sum_w (nats_w - loss * tokens_w)^2) / sum_w tokens_w
    by_position   loss of tokens predicted from 1, 2, 3-4, 5-8, … tokens of context
    by_frequency  loss of tokens that occur 0, 1-9, 10-99, … times in a reference text

Tokens of one window are not independent, so a standard error over tokens would be too small. Source for the ratio's:
Cochran 1977, Sampling Techniques, section 6.4 and 9A.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

TOP = 5


class Details:
    """Sums from which the parts follow; `score_model` adds to them."""

    def __init__(self, *, context_length: int, vocab_size: int) -> None:
        self._nats_at = np.zeros(context_length + 1)
        self._tokens_at = np.zeros(context_length + 1, dtype=np.int64)
        self._nats_of = np.zeros(vocab_size)
        self.tokens_of = np.zeros(vocab_size, dtype=np.int64)
        self._rows: list[NDArray[np.float64]] = []
        self._n_top = 0

    def add(
        self,
        nats: Float[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        ranks: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        n_bytes: Int[Tensor, "B T"],
    ) -> None:
        """Count one batch; targets below 0 are left out.

        Args:
            nats: negative log-likelihood of each target.
            targets: their ids.
            ranks: how many ids the model thought likelier.
            positions: how many tokens stand before the input that predicts it, in its context.
            n_bytes: of each target; 0 for special tokens.
        """
        is_scored = targets >= 0
        kept = is_scored.cpu().numpy().astype(np.float64)
        cost = np.where(kept > 0, nats.cpu().double().numpy(), 0.0)
        length = n_bytes.cpu().numpy() * kept
        self._rows.append(np.stack([cost.sum(1), kept.sum(1), (cost * (length > 0)).sum(1), length.sum(1)], axis=1))
        self._n_top += int((is_scored & (ranks < TOP)).sum())
        flat, nats_flat = is_scored.cpu().numpy().ravel(), cost.ravel()
        at = (positions.cpu().numpy().ravel() + 1)[flat]
        of = targets.cpu().numpy().ravel()[flat]
        for sums, counts, index in ((self._nats_at, self._tokens_at, at), (self._nats_of, self.tokens_of, of)):
            sums += np.bincount(index, weights=nats_flat[flat], minlength=len(sums))
            counts += np.bincount(index, minlength=len(counts))

    def measures(self) -> dict[str, Any]:
        """Standard errors, the share of targets among the likeliest five, and the loss by position."""
        nats, tokens, text_nats, n_bytes = np.concatenate(self._rows).T
        error, byte_error = ratio_error(nats, tokens), ratio_error(text_nats, n_bytes)
        return {
            "loss_stderr": error,
            "bits_per_byte_stderr": None if byte_error is None else byte_error / math.log(2),
            "top5_accuracy": self._n_top / tokens.sum(),
            "by_position": self.by_position(),
        }

    def by_position(self) -> list[dict[str, Any]]:
        """The loss with 1, 2, 3-4, 5-8, … tokens of context."""
        last = int(np.flatnonzero(self._tokens_at)[-1])
        edges = [1, *(2**i + 1 for i in range((last - 1).bit_length())), last + 1]
        return _binned(np.arange(len(self._tokens_at)), edges, self._nats_at, self._tokens_at)

    def by_frequency(self, counts: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The loss of tokens that occur 0, 1-9, 10-99, … times.

        Args:
            counts: occurrences of each id in a reference text [vocab_size].
        """
        highest = int(counts.max())
        return _binned(counts, [0, *(10**i for i in range(len(str(highest)) + 1))], self._nats_of, self.tokens_of)


def _binned(
    values: NDArray[np.int64], edges: Sequence[int], nats: NDArray[np.float64], tokens: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Sums by where a value lies, `edges[i]` to `edges[i + 1] - 1`; bins without tokens are left out."""
    found = []
    for low, high in itertools.pairwise(edges):
        inside = (values >= low) & (values < high)
        if n := int(tokens[inside].sum()):
            found.append({"from": low, "to": high - 1, "tokens": n, "loss": float(nats[inside].sum() / n)})
    return found


def ratio_error(
    sums: Sequence[float | int] | NDArray[Any], sizes: Sequence[float | int] | NDArray[Any]
) -> float | None:
    """Standard error of sum(sums) / sum(sizes) over independent units; None for fewer than two."""
    tops, bottoms = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    n, total = len(tops), bottoms.sum()
    if n < 2 or total <= 0:
        return None
    rest = tops - tops.sum() / total * bottoms
    return float(math.sqrt(n / (n - 1) * (rest**2).sum()) / total)


def rank_targets(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How many ids are likelier than each target; row by row, as a comparison is as large as the logits."""
    rows = []
    for row, wanted in zip(logits, targets.clamp(min=0), strict=True):
        rows.append((row > row.gather(-1, wanted[:, None])).sum(-1))
    return torch.stack(rows)
