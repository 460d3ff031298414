"""From logits to the next tokens, each row of a batch with its own options.

Which options a batch uses is known on the host, so nothing here waits for a device to decide what to do.

Source: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p); Keskar et al. 2019
(repetition penalty).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalllm import runtime

Report = tuple[float | None, tuple[tuple[int, float], ...]]
"""A token's log-probability, and the likeliest tokens with theirs; (None, ()) where nobody asked."""


class Rows:
    """The options of a batch as columns [B 1] on its device; those that no row uses are None.

    Args:
        vocab_size: V.
        device: of the logits.
        temperature: of each row, as all below; see `SamplingConfig`.
        top_k: 0: off.
        top_p: 1: off.
        min_p: 0: off.
        repetition: 1: off.
        presence: 0: off.
        frequency: 0: off.
        bias: pairs of id and number.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        device: str,
        temperature: Sequence[float],
        top_k: Sequence[int],
        top_p: Sequence[float],
        min_p: Sequence[float],
        repetition: Sequence[float],
        presence: Sequence[float],
        frequency: Sequence[float],
        bias: Sequence[Sequence[tuple[int, float]]],
    ) -> None:
        def column(
            values: Sequence[float | int], off: float | int, dtype: torch.dtype = torch.float32
        ) -> Tensor | None:
            return None if all(v == off for v in values) else torch.tensor(values, dtype=dtype, device=device)[:, None]

        tiny = torch.finfo(torch.float32).tiny
        self.all_greedy = not any(temperature)
        self.greedy = torch.tensor([t == 0 for t in temperature], device=device) if 0 in temperature else None
        self.temperature = column([max(t, tiny) if t else 1.0 for t in temperature], 1.0)
        cut = [k if 0 < k < vocab_size else 0 for k in top_k]
        self.largest_k = max(cut, default=0)
        self.top_k = column(cut, 0, torch.int64)
        self.top_p = column([max(p, tiny) for p in top_p], 1.0)  # a smaller one would become 0, and keep no token
        self.min_p = column([math.log(p) if p else -math.inf for p in min_p], -math.inf)
        self.repetition = column(repetition, 1.0)
        self.presence, self.frequency = column(presence, 0.0), column(frequency, 0.0)
        self.bias: Tensor | None = None
        if any(bias):
            self.bias = torch.zeros(len(bias), vocab_size, device=device)
            for row, pairs in enumerate(bias):
                for token_id, number in pairs:
                    self.bias[row, token_id] = number

    @property
    def counts_tokens(self) -> bool:
        """Whether drawing needs to know which tokens occurred."""
        return any(option is not None for option in (self.repetition, self.presence, self.frequency))


def penalize_repetition(logits: Float[Tensor, "B V"], seen: Int[Tensor, "B S"], penalty: float) -> Float[Tensor, "B V"]:
    """Make the tokens in `seen` less likely (for a penalty above 1), each once however often it occurred."""
    at = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(at > 0, at / penalty, at * penalty))


def adjust_rows(
    logits: Float[Tensor, "B V"],
    rows: Rows,
    *,
    is_seen: Bool[Tensor, "B V"] | None = None,
    counts: Float[Tensor, "B V"] | None = None,
) -> Float[Tensor, "B V"]:
    """Apply bias and penalties.

    Args:
        logits: FP32.
        rows: the options.
        is_seen: tokens of the prompt and the text so far; needed for the repetition penalty.
        counts: how often each token was generated; needed for the presence and frequency penalties.
    """
    if rows.bias is not None:
        logits = logits + rows.bias
    if rows.repetition is not None:
        assert is_seen is not None
        penalized = torch.where(logits > 0, logits / rows.repetition, logits * rows.repetition)
        logits = torch.where(is_seen, penalized, logits)
    if rows.frequency is not None:
        assert counts is not None
        logits = logits - rows.frequency * counts
    if rows.presence is not None:
        assert counts is not None
        logits = logits - rows.presence * (counts > 0)
    return logits


def filter_rows(logits: Float[Tensor, "B V"], rows: Rows) -> Float[Tensor, "B V"]:
    """Apply temperature, top-k, top-p and min-p: what is cut becomes -inf."""
    if rows.top_k is not None:  # before the division, whose rounding could tie what is not tied
        largest = logits.topk(rows.largest_k, dim=-1).values
        kth = largest.gather(-1, (rows.top_k - 1).clamp(min=0))
        logits = logits.masked_fill((logits < kth) & (rows.top_k > 0), -torch.inf)
    # The largest logit becomes 0 first, so that a tiny temperature gives -inf to the others and never inf - inf.
    scaled = logits - logits.amax(-1, keepdim=True)
    if rows.temperature is not None:
        scaled = scaled / rows.temperature
    if rows.top_p is not None:
        scaled = scaled.masked_fill(_beyond_top_p(logits, scaled, rows.top_p), -torch.inf)
    if rows.min_p is not None:
        scaled = scaled.masked_fill(scaled < rows.min_p, -torch.inf)
    return scaled


def _beyond_top_p(
    logits: Float[Tensor, "B V"], scaled: Float[Tensor, "B V"], top_p: Float[Tensor, "B 1"]
) -> Bool[Tensor, "B V"]:
    """Tokens past the smallest set of likeliest ones that reaches p; of equally likely ones the smaller id is first.

    The order is that of the logits, before rounding can tie anything.
    """
    probabilities = scaled.softmax(-1)
    if logits.is_cpu:
        return torch.stack(
            [_row_beyond_top_p(*row) for row in zip(logits, probabilities, top_p[:, 0].tolist(), strict=True)]
        )
    order = logits.argsort(dim=-1, descending=True, stable=True)
    mass = probabilities.gather(-1, order)
    is_cut = mass.cumsum(-1) - mass >= torch.where(top_p >= 1, torch.inf, top_p)  # what is before; 0 for the first
    return is_cut.scatter(-1, order, is_cut)


def _row_beyond_top_p(
    logits: Float[Tensor, " V"], probabilities: Float[Tensor, " V"], top_p: float
) -> Bool[Tensor, " V"]:
    """The same for one row, sorting only what can be among them: all that are less likely than (1 - p) / V have less
    than 1 - p together, so that the others reach p. Half of that leaves room for rounding.
    """
    if top_p >= 1:
        return torch.zeros_like(logits, dtype=torch.bool)
    ids = (probabilities >= (1 - top_p) / (2 * len(logits))).nonzero()[:, 0]  # in the order of the ids
    order = ids[logits[ids].argsort(descending=True, stable=True)]
    mass = probabilities[order]
    is_kept = mass.cumsum(0) - mass < top_p
    is_cut = torch.ones_like(logits, dtype=torch.bool)
    is_cut[order[is_kept]] = False
    return is_cut


def draw_rows(
    logits: Float[Tensor, "B V"],
    rows: Rows,
    uniforms: Float[Tensor, " B"],
    *,
    is_seen: Bool[Tensor, "B V"] | None = None,
    counts: Float[Tensor, "B V"] | None = None,
) -> Int[Tensor, " B"]:
    """The next token of each row.

    Args:
        logits: of the last position.
        rows: the options of each row.
        uniforms: one number in [0, 1) per row; it alone decides the draw.
        is_seen: see `adjust_rows`.
        counts: likewise.
    """
    logits = adjust_rows(logits.float(), rows, is_seen=is_seen, counts=counts)
    if rows.all_greedy:
        return _likeliest(logits)
    cumulative = runtime.in_fp64(filter_rows(logits, rows).softmax(-1)).cumsum(-1)
    target = runtime.in_fp64(uniforms)[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= target).sum(-1).clamp(max=logits.shape[-1] - 1).to(logits.device)
    return drawn if rows.greedy is None else torch.where(rows.greedy, _likeliest(logits), drawn)


def _likeliest(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """The first of the largest of each row; on CPUs by NumPy, which is seven times as fast as PyTorch at it."""
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.is_cpu else logits.argmax(-1)


def log_probabilities(
    logits: Float[Tensor, "B V"], drawn: Int[Tensor, " B"], asked: Sequence[int | None]
) -> list[Report]:
    """Of the drawn tokens and of the likeliest, under the model itself, for each row that asks for so many."""
    if all(n is None for n in asked):
        return [(None, ())] * len(asked)
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, drawn[:, None])[:, 0].tolist()
    n_most = min(max(n or 0 for n in asked), logits.shape[-1])
    values, ids = (found.tolist() for found in logprobs.topk(n_most))
    return [
        (None, ()) if n is None else (one, tuple(zip(i[:n], v[:n], strict=True)))
        for n, one, i, v in zip(asked, chosen, ids, values, strict=True)
    ]
