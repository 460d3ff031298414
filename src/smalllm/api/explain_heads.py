"""The heads of a model, as `explain` shows them: where they look on real text, what they do on repeated tokens."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from smalllm.api.held_out import HeldOut
from smalllm.data.padded import IGNORED
from smalllm.model.documents import find_documents
from smalllm.reporting.explanation import Head, Repeated
from smalllm.run import Run
from smalllm.xray.attention import Looks, distance_bins, looks
from smalllm.xray.heads import Patterns, score_patterns
from smalllm.xray.trace import Trace, trace

MAX_LOOKED = 256  # positions of a window: distances beyond are not seen
LOOKED_WINDOWS = 8
_CANDIDATE_WINDOWS = 32

Traced = tuple[Trace, Bool[Tensor, "B T T"], Bool[Tensor, "B T"]]


def measure_heads(
    run: Run, traced: Trace, held_out: HeldOut | str
) -> tuple[tuple[Head, ...], tuple[int, ...], Repeated | None]:
    """Every head, where the bins of distances begin, and the test on repeated tokens.

    Args:
        run: a loaded run.
        traced: the prompt.
        held_out: text to measure on; where there is none, the prompt.
    """
    if isinstance(held_out, str):
        n_positions = traced.token_ids.shape[1]
        found = looks([_whole(traced)], n_positions=n_positions)
    else:
        n_positions = min(held_out.context_length, MAX_LOOKED)
        found = looks(_traced_windows(run, held_out, n_positions), n_positions=n_positions)
    opens = run.config.data.document_mask or run.config.data.packing == "padded"
    opening = [run.tokenizer.eos_id] if opens else []
    patterns = score_patterns(run.model, _candidates(run, held_out), opening=opening)
    heads = tuple(
        _head(found, patterns, layer, head)
        for layer in range(len(traced.layers))
        for head in range(found.distance.shape[1])
    )
    return heads, tuple(distance_bins(n_positions)), _repeated(patterns)


def _whole(traced: Trace) -> Traced:
    n_batch, n_positions = traced.token_ids.shape
    device = traced.token_ids.device
    visible = torch.ones(n_batch, n_positions, n_positions, dtype=torch.bool, device=device).tril()
    return traced, visible, torch.ones(n_batch, n_positions, dtype=torch.bool, device=device)


def _traced_windows(run: Run, held_out: HeldOut, n_positions: int) -> Iterator[Traced]:
    for inputs, targets in held_out.batches(n=LOOKED_WINDOWS, rows=1):
        token_ids = inputs[:, :n_positions].to(run.device)
        counts = (targets[:, :n_positions] != IGNORED).to(run.device)
        if run.config.data.document_mask:
            documents = find_documents(token_ids, eos_id=run.tokenizer.eos_id)
            yield trace(run.model, token_ids, documents=documents), documents.mask[:, 0], counts
        else:
            traced, visible, _ = _whole(trace(run.model, token_ids))
            yield traced, visible, counts


def _candidates(run: Run, held_out: HeldOut | str) -> list[int]:
    """Ids to draw random tokens from: those the model has met, as far as we know, and that stand for text."""
    lengths = run.tokenizer.token_byte_lengths
    ids = set(range(run.tokenizer.vocab_size))
    if not isinstance(held_out, str):
        ids = {i for inputs, _ in held_out.batches(n=_CANDIDATE_WINDOWS) for i in inputs.unique().tolist()}
    return sorted(i for i in ids if lengths[i] > 0)


def _head(found: Looks, patterns: Patterns | None, layer: int, head: int) -> Head:
    at = layer, head
    return Head(
        layer=layer + 1,
        head=head + 1,
        distance=float(found.distance[at]),
        entropy_bits=float(found.entropy_bits[at]),
        first_share=float(found.first_share[at]),
        histogram=tuple(found.histogram[at].tolist()),
        previous=None if patterns is None else float(patterns.previous[at]),
        duplicate=None if patterns is None else float(patterns.duplicate[at]),
        induction=None if patterns is None else float(patterns.induction[at]),
    )


def _repeated(patterns: Patterns | None) -> Repeated | None:
    if patterns is None:
        return None
    names = ("n_tokens", "n_texts", "first_bits", "second_bits", "previous_chance", "copy_chance")
    return Repeated(**{name: getattr(patterns, name) for name in names})
