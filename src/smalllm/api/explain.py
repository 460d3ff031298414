"""`explain`: what a model does inside, on one prompt. Wires the traced pass, measures, page and pictures."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from smalllm.api.explain_heads import LOOKED_WINDOWS, MAX_LOOKED, measure_heads
from smalllm.api.held_out import HeldOut, open_held_out
from smalllm.errors import ConfigError
from smalllm.generation.text import prompt_ids
from smalllm.model.count import count_parameters
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.reporting.explain_page import write_explanation
from smalllm.reporting.explanation import Explanation, LensCell, Part, PromptToken
from smalllm.run import Run, load_run
from smalllm.xray.lens import logit_lens
from smalllm.xray.positions import position_loss
from smalllm.xray.residual import contributions
from smalllm.xray.surprise import surprise
from smalllm.xray.trace import Trace, trace

MAX_POSITIONS = 512  # of a traced text: attention weights take n_layers · n_heads · T² · 4 bytes
MAX_MAP_BYTES = 1_600_000  # of all attention maps, before compression; half of each is empty
_POSITION_FLOPS = 2e12  # what the loss by position may cost: seconds on a CPU
_MAX_POSITION_TOKENS = 65_536


def explain(
    run: Run | str | Path, prompt: str, *, out: Path | None = None, progress: Progress | None = None
) -> Explanation:
    """Look into a model while it reads a prompt, and write a page, pictures and numbers of what is seen.

    All is computed in the arithmetic of the weights (FP32). The prompt opens a document where the model has seen
    documents opened (see `generation/text.py`). Heads and loss by position are measured on validation windows of the
    run's data, or on the prompt where there are none.

    Args:
        run: a loaded run, or the path of one.
        prompt: a text of two tokens at least; of a long one, the end is used, and a notice says so.
        out: where `explain.html`, `explain.json` and the pictures go; absent: `explain/` in the run directory.
        progress: told notices.

    Returns:
        What the page shows; `as_dict()` of it is what `explain.json` holds.

    Raises:
        ConfigError: the prompt is empty, too short to predict anything, or not UTF-8 text; or `out` is a file.
        CheckpointError, RunError, TokenizerError: the path holds no usable run.
    """
    progress = progress or Silent()
    run = run if isinstance(run, Run) else load_run(run)
    folder = out or run.dir.path / "explain"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; name a folder, which is made where there is none")
    found = look_inside(run, prompt, progress=progress)
    for notice in found.notices:
        progress.say(notice)
    write_explanation(found, folder)
    return found


def look_inside(run: Run, prompt: str, *, progress: Progress) -> Explanation:
    """All measures of a prompt; writes nothing. Arguments and errors are those of `explain`."""
    _check_prompt(prompt)
    ids, notices = _cut(run, prompt)
    token_ids = torch.tensor([ids], device=run.device)
    traced = trace(run.model, token_ids)
    n_parameters = count_parameters(run.config.model, vocab_size=run.tokenizer.vocab_size)
    budget = min(_MAX_POSITION_TOKENS, int(_POSITION_FLOPS / (2 * n_parameters.multiplying)))
    held_out = open_held_out(run, max_tokens=budget, progress=progress)
    if isinstance(held_out, str):
        notices = [*notices, f"{held_out}: heads and loss by position are measured on the prompt alone"]
    heads, bins, repeated = measure_heads(run, traced, held_out)
    maps, n_mapped = _maps(traced), len(ids)
    if maps.shape[-1] < n_mapped:
        notices = [*notices, f"attention maps show the first {maps.shape[-1]:,} of {n_mapped:,} tokens"]
    parts, stream_norm = _parts(run, traced)
    return Explanation(
        run=str(run.dir.path),
        recipe=run.config.recipe,
        checkpoint=run.checkpoint.name,
        step=run.state.step,
        parameters=n_parameters.total,
        vocab_size=run.tokenizer.vocab_size,
        prompt=prompt,
        tokens=_tokens(traced, run.tokenizer),
        lens=_lens(run, traced),
        parts=parts,
        stream_norm=stream_norm,
        n_layers=len(traced.layers),
        n_heads=run.config.model.n_heads,
        heads=heads,
        distance_bins=bins,
        repeated=repeated,
        loss_by_position=_by_position(run, token_ids, held_out),
        heads_measured_on=_name(held_out, n=LOOKED_WINDOWS, length=MAX_LOOKED),
        loss_measured_on=_name(held_out),
        notices=tuple(notices),
        maps=maps,
    )


def _check_prompt(prompt: str) -> None:
    if not prompt:
        raise ConfigError("the prompt is empty: there is nothing to explain; give some text with --prompt")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt is not UTF-8 text ({error.reason}); give it in UTF-8") from error


def _cut(run: Run, prompt: str) -> tuple[list[int], list[str]]:
    """The ids of a prompt that the model can see and we can hold, and what was left out."""
    ids = prompt_ids(prompt, run.tokenizer, run.config.data)
    context, limit = run.config.model.context_length, min(run.config.model.context_length, MAX_POSITIONS)
    if limit < 2:
        raise ConfigError("model.context_length = 1: the model sees one token, so there is no next one to explain")
    if len(ids) < 2:
        raise ConfigError(f"the prompt {prompt!r} is a single token: there is no next one to explain; give more text")
    if len(ids) <= limit:
        return ids, []
    why = f"the model sees {context:,}" if limit == context else f"{limit:,} are traced at most"
    return ids[-limit:], [f"the prompt has {len(ids):,} tokens and {why}: only its end is explained"]


def token_text(token_id: int, tokenizer: Tokenizer) -> str:
    """A token as text; bytes that are no whole character as escapes, a special token in angle brackets."""
    text = tokenizer.token_bytes[token_id]
    if not text:
        return "⟨end⟩" if token_id == tokenizer.eos_id else f"⟨{token_id}⟩"
    return text.decode("utf-8", errors="backslashreplace")


def _tokens(traced: Trace, tokenizer: Tokenizer) -> tuple[PromptToken, ...]:
    ids = traced.token_ids[0]
    found = surprise(traced.logits[0], ids)
    rows = zip(
        found.bits.tolist(), found.alternative_ids.tolist(), found.alternative_probabilities.tolist(), strict=True
    )
    first, *rest = ids.tolist()
    return (
        PromptToken(id=first, text=token_text(first, tokenizer), bits=None, alternatives=()),
        *(
            PromptToken(
                id=token_id,
                text=token_text(token_id, tokenizer),
                bits=bits,
                alternatives=tuple((token_text(i, tokenizer), p) for i, p in zip(others, chances, strict=True)),
            )
            for token_id, (bits, others, chances) in zip(rest, rows, strict=True)
        ),
    )


def _lens(run: Run, traced: Trace) -> tuple[tuple[LensCell, ...], ...]:
    lens, following = logit_lens(run.model, traced), [*traced.token_ids[0, 1:].tolist(), None]
    rows = zip(lens.top_ids.tolist(), lens.top_probabilities.tolist(), lens.entropy_bits.tolist(), strict=True)
    return tuple(
        tuple(
            LensCell(text=token_text(i, run.tokenizer), probability=p, entropy_bits=h, is_right=i == right)
            for i, p, h, right in zip(*row, following, strict=True)
        )
        for row in rows
    )


def _parts(run: Run, traced: Trace) -> tuple[tuple[Part, ...], float]:
    found = contributions(run.model, traced)
    rows = zip(found.names, found.norms, found.effects, strict=True)
    parts = (
        Part(name=name, norm=float(norms.mean()), effect=float(effects.mean()), effects=tuple(effects.tolist()))
        for name, norms, effects in rows
    )
    return tuple(parts), float(found.stream_norms.mean())


def _maps(traced: Trace) -> NDArray[np.uint8]:
    """Attention weights of the first positions in 8 bits; the root keeps faint ones visible."""
    n_maps = len(traced.layers) * traced.layers[0].attention.shape[1]
    n = min(traced.token_ids.shape[1], max(8, int((MAX_MAP_BYTES / n_maps) ** 0.5)))
    small = [(255 * layer.attention[0, :, :n, :n].sqrt()).round().to(torch.uint8).cpu() for layer in traced.layers]
    return torch.stack(small).numpy()


def _by_position(
    run: Run, token_ids: Int[Tensor, "1 T"], held_out: HeldOut | str
) -> tuple[tuple[int, int, float], ...]:
    if isinstance(held_out, str):
        return tuple(position_loss(run.model, [(token_ids[:, :-1], token_ids[:, 1:])]).buckets())
    eos_id = run.tokenizer.eos_id if run.config.data.document_mask else None
    return tuple(position_loss(run.model, held_out.batches(), eos_id=eos_id).buckets())


def _name(held_out: HeldOut | str, *, n: int | None = None, length: int | None = None) -> str:
    """What was measured on, in words."""
    if isinstance(held_out, str):
        return "the prompt"
    n, whole = min(n or held_out.n, held_out.n), held_out.context_length
    part = f"the first {length:,} tokens of " if length and length < whole else ""
    return f"{part}{n:,} validation windows of {whole:,} tokens"
