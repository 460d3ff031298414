"""A smalllm model as a model of lm-evaluation-harness, which then runs any of its tasks on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.evaluation.likelihood import score_requests
from smalllm.evaluation.requests import Encoder
from smalllm.model.gpt import GPT

MOST_TOKENS = 256
"""Tokens of a continuation where a task does not say, as with the harness's own models."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A continuation that a task asks for.

    Attributes:
        prompt: what it follows.
        n_tokens: at most so many.
        until: texts that end it, none of them empty.
        temperature: 0, greedy, unless the task samples.
        top_p: of sampling.
    """

    prompt: str
    n_tokens: int
    until: tuple[str, ...]
    temperature: float
    top_p: float


Generate = Callable[[Sequence[Wish]], list[str]]


def make_language_model(model: GPT, encoder: Encoder, *, device: str, precision: str, generate: Generate) -> Any:
    """An `lm_eval.api.model.LM` around a model.

    Args:
        model: on `device`.
        encoder: from text to requests.
        device: where the model is.
        precision: of its matrix products.
        generate: the text that follows each prompt, at least up to the first of the strings that end it.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
    """
    from lm_eval.api.model import LM

    class SmalllmModel(LM):  # here, because the base class is only there where the extra is installed
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Log-probability of each continuation; neighbours with the same context share its computation."""
            asked = [encoder.pairs(*group, where=f"after {group[0]!r:.60}") for group in _neighbours(requests)]
            found = score_requests(model, asked, device=device, precision=precision)
            return [(one.log_prob, one.is_greedy) for group in found for one in group]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            """Log-probability of whole texts, in windows of the context length."""
            asked = [encoder.rolling(request.args[0]) for request in requests]
            found = score_requests(model, asked, device=device, precision=precision)
            return [sum((one.log_prob for one in group), 0.0) for group in found]

        def generate_until(self, requests: list[Any]) -> list[str]:
            """What follows each prompt, up to the first of the strings that end it."""
            wishes = [_wish(*request.args) for request in requests]
            return [cut_at(text, wish.until) for text, wish in zip(generate(wishes), wishes, strict=True)]

    return SmalllmModel()


def hf_model(folder: Path, *, device: str, precision: str, opens_with_end: bool) -> Any:
    """The harness's own Hugging Face backend on an exported run, to compare with.

    Args:
        folder: what `smalllm export` wrote.
        device: where it computes.
        precision: fp32 or bf16, of its weights.
        opens_with_end: every text begins with the end token, as in runs trained on documents apart.

    Raises:
        ImportError: lm-evaluation-harness or transformers is not installed.
    """
    import transformers
    from lm_eval.models.huggingface import HFLM

    transformers.utils.logging.disable_progress_bar()
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    return HFLM(pretrained=str(folder), device=device, dtype=dtype, add_bos_token=opens_with_end or None)


def _neighbours(requests: list[Any]) -> list[tuple[str, list[str]]]:
    """Contexts, each with the continuations that one document asks for."""
    groups: list[tuple[str, list[str]]] = []
    last: Any = None
    for request in requests:
        context, continuation = request.args
        if (request.doc_id, context) != last:
            groups.append((context, []))
            last = (request.doc_id, context)
        groups[-1][1].append(continuation)
    return groups


def _wish(prompt: str, options: dict[str, Any]) -> Wish:
    until = options.get("until") or []
    return Wish(
        prompt,
        n_tokens=int(options.get("max_gen_toks") or MOST_TOKENS),
        until=tuple(end for end in ([until] if isinstance(until, str) else until) if end),
        temperature=float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
        top_p=float(options.get("top_p", 1.0)),
    )


def cut_at(text: str, ends: Sequence[str]) -> str:
    """The text before the first of some strings."""
    for end in ends:
        text = text.split(end)[0]
    return text
