"""What the model itself says of a prompt: how likely each of its tokens was, and what may come next."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalllm import runtime
from smalllm.generation.filters import Report, adjust_rows, filter_rows, log_probabilities
from smalllm.generation.sampling import SamplingConfig, rows_of
from smalllm.run import Run

_LOGITS_AT_ONCE = 1 << 22


@torch.inference_mode()
def score_prompt(run: Run, ids: Sequence[int], n_top: int) -> list[Report]:
    """The log-probability of each token but the first, given those before it, and of the likeliest instead [nats].

    Args:
        run: whose model is asked.
        ids: at most as many as its context.
        n_top: how many of the likeliest.
    """
    token_ids = torch.tensor([list(ids)], device=run.device)  # [1 T]
    found: list[Report] = []
    with runtime.autocast(run.device, run.precision):
        hidden = run.model.hidden(token_ids[:, :-1])[0] if len(ids) > 1 else None  # [T-1 D]
        n_at_once = max(1, _LOGITS_AT_ONCE // run.model.vocab_size)
        for start in range(0, len(ids) - 1, n_at_once):
            assert hidden is not None
            logits = run.model.lm_head(hidden[start : start + n_at_once])[:, : run.model.vocab_size]
            targets = token_ids[0, start + 1 : start + 1 + len(logits)]
            found += log_probabilities(logits, targets, [n_top] * len(logits))
    return found


@torch.inference_mode()
def next_tokens(run: Run, ids: Sequence[int], sampling: SamplingConfig, top: int) -> dict[str, Any]:
    """What may follow a prompt: under the model itself, and after all options.

    Args:
        run: whose model is asked.
        ids: the prompt, at most as many as its context, at least one; to the penalties nothing has been written yet.
        sampling: checked.
        top: how many tokens to list.

    Returns:
        "tokens": id, log-probability under the model [nats], probability after the options; most probable first, then
        likeliest. "n_kept": how many can be drawn. "kept_mass": the model's own probability of those.
        "entropy" after the options, "model_entropy" before them [nats].
    """
    with runtime.autocast(run.device, run.precision):
        hidden = run.model.hidden(torch.tensor([list(ids)], device=run.device))[:, -1]
        logits = run.model.lm_head(hidden)[:, : run.model.vocab_size].float().cpu()  # [1 V]; mps has no FP64
    logprobs = logits.double().log_softmax(-1)[0]
    probabilities = _drawn_from(logits, ids, sampling)
    order = sorted(
        set(logprobs.topk(min(top, len(logprobs))).indices.tolist())
        | set(probabilities.topk(min(top, len(logprobs))).indices.tolist()),
        key=lambda i: (-float(probabilities[i]), -float(logprobs[i]), i),
    )[:top]
    is_kept = probabilities > 0
    return {
        "tokens": [
            {"id": i, "logprob": max(-9999.0, float(logprobs[i])), "probability": float(probabilities[i])}
            for i in order
        ],
        "n_kept": int(is_kept.sum()),
        "kept_mass": min(1.0, float(logprobs[is_kept].exp().sum())),
        "entropy": _entropy(probabilities),
        "model_entropy": _entropy(logprobs.exp()),
    }


def _drawn_from(logits: Float[Tensor, "1 V"], ids: Sequence[int], sampling: SamplingConfig) -> Float[Tensor, " V"]:
    rows = rows_of([sampling], vocab_size=logits.shape[-1], device=logits.device.type)
    is_seen = torch.zeros_like(logits, dtype=torch.bool)
    is_seen[0, list(ids)] = True
    adjusted = adjust_rows(logits, rows, is_seen=is_seen, counts=torch.zeros_like(logits))
    if rows.all_greedy:
        return torch.nn.functional.one_hot(adjusted[0].argmax(), logits.shape[-1]).double()
    return filter_rows(adjusted, rows).double().softmax(-1)[0]


def _entropy(probabilities: Float[Tensor, " V"]) -> float:
    return max(0.0, float(torch.special.entr(probabilities).sum()))
