"""What heads do: three patterns of attention, scored on random tokens that come twice.

In a text of n different random tokens followed by the same n once more, nothing but the repetition can be known. For a
query at position t of the second half:

    previous token    a(t, t - 1)        the token just before                     (over both halves)
    duplicate token   a(t, t - n)        the earlier copy of this token
    induction         a(t, t - n + 1)    what followed the earlier copy: what comes next here too

A score is the mean attention there, from 0 to 1. Heads that spread their attention evenly have the `chance` scores.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (kinds of heads); Olsson et al. 2022,
"In-context Learning and Induction Heads" (the induction score: prefix matching on repeated random tokens).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalllm.model.gpt import GPT
from smalllm.xray.surprise import surprise
from smalllm.xray.trace import trace

MAX_REPEATED = 50  # tokens that come twice; half of the context where that is less


@dataclass(frozen=True, slots=True)
class Patterns:
    """Scores for each layer L and head H on random tokens that come twice.

    Attributes:
        previous: mean attention to the token before.
        duplicate: mean attention to the earlier copy of the token.
        induction: mean attention to what followed the earlier copy.
        previous_chance: what even attention would score for `previous`.
        copy_chance: and for the other two.
        first_bits: mean surprise of the tokens when they come first [bits].
        second_bits: and when they come again: what copying saves [bits].
        n_tokens: how many tokens come twice.
        n_texts: how many such texts were scored.
    """

    previous: Float[Tensor, "L H"]
    duplicate: Float[Tensor, "L H"]
    induction: Float[Tensor, "L H"]
    previous_chance: float
    copy_chance: float
    first_bits: float
    second_bits: float
    n_tokens: int
    n_texts: int


def repeated_tokens(
    candidates: Sequence[int], *, n_tokens: int, n_texts: int, seed: int, opening: Sequence[int] = ()
) -> Int[Tensor, "B T"]:
    """Texts of `n_tokens` different random ids, twice; each begins with `opening`.

    Args:
        candidates: the ids to draw from, at least `n_tokens`.
        n_tokens: how many come twice.
        n_texts: how many texts.
        seed: the same seed draws the same texts.
        opening: ids before them: the token that opens documents, for a model that has seen it do so.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(sorted(set(candidates)))
    halves = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:n_tokens]] for _ in range(n_texts)])
    start = torch.tensor(list(opening), dtype=torch.int64).expand(n_texts, -1)
    return torch.cat([start, halves, halves], dim=1)


def score_patterns(
    model: GPT, candidates: Sequence[int], *, opening: Sequence[int] = (), n_texts: int = 8, seed: int = 0
) -> Patterns | None:
    """Score every head, or None where no text can be made: fewer than two candidates or too small a context.

    Args:
        model: traced in its own arithmetic.
        candidates: ids to draw from.
        opening: ids before each text.
        n_texts: how many texts to average over.
        seed: of the draw.
    """
    n = min(MAX_REPEATED, (model.config.context_length - len(opening)) // 2, len(set(candidates)))
    if n < 2:
        return None
    texts = repeated_tokens(candidates, n_tokens=n, n_texts=n_texts, seed=seed, opening=opening)
    device = model.token_embedding.weight.device
    sums = torch.zeros(3, len(model.blocks), model.config.n_heads)
    first, second = 0.0, 0.0
    start = len(opening)
    for row in texts.to(device):
        traced = trace(model, row[None])
        for layer, traced_layer in enumerate(traced.layers):
            sums[:, layer] += pattern_scores(traced_layer.attention[0], n_tokens=n, start=start).cpu()
        bits = surprise(traced.logits[0], row, n_alternatives=1).bits
        # bits[i] is of the token at i + 1; the very first has none where nothing opens the text
        first += float(bits[max(0, start - 1) : start + n - 1].mean())
        second += float(bits[start + n - 1 :].mean())
    previous, duplicate, induction = sums / n_texts
    later = [start + i for i in range(1, 2 * n)]
    return Patterns(
        previous, duplicate, induction,
        previous_chance=math.fsum(1 / (t + 1) for t in later) / len(later),
        copy_chance=math.fsum(1 / (start + n + i + 1) for i in range(n)) / n,
        first_bits=first / n_texts, second_bits=second / n_texts, n_tokens=n, n_texts=n_texts,
    )  # fmt: skip


def pattern_scores(attention: Float[Tensor, "H T T"], *, n_tokens: int, start: int = 0) -> Float[Tensor, "3 H"]:
    """Previous-token, duplicate-token and induction scores of one text.

    Args:
        attention: of one layer; positions `start` to `start + 2 n_tokens` hold the tokens, twice.
        n_tokens: how many come twice.
        start: tokens before them.
    """
    text = attention[:, start:, start:]
    previous = text.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)
    duplicate = text.diagonal(offset=-n_tokens, dim1=-2, dim2=-1).mean(dim=-1)
    # the stripe one nearer also crosses the last token of the first half, which has no earlier copy
    induction = text.diagonal(offset=1 - n_tokens, dim1=-2, dim2=-1)[:, 1:].mean(dim=-1)
    return torch.stack([previous, duplicate, induction])
