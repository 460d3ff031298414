"""The proof of a GGUF file: read back, it is the run; and where llama.cpp is installed, it computes the same.

Read back are the shape, every weight, the tokenizer's lists and what they make of awkward texts. llama.cpp, which
shares no code with us, then computes logits, token ids, the bytes of every token and a greedy continuation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.gguf_encode import make_cases, make_encoder
from smalllm.interop.gguf_file import import_gguf, type_of
from smalllm.interop.gguf_read import read_gguf
from smalllm.interop.gguf_tokenizer import BYTE, NORMAL, GGUFTokenizer, gguf_tokenizer
from smalllm.interop.llama_cpp_run import LlamaCppAnswer, ask_llama_cpp
from smalllm.interop.verify import N_CONTINUED, TEXTS, Proof, n_prompt
from smalllm.model.gpt import GPT
from smalllm.recipes.resolve import resolve_shape
from smalllm.tokenizers.text_tokenizer import TextTokenizer

TOLERANCES = {"f32": 1e-3, "f16": 2e-2, "bf16": 1e-1, "q8_0": 3e-1}
"""Largest difference of llama.cpp's logits from ours with the same, rounded weights, as a share of the largest logit.
It rounds activations to the precision of the weights. A wrong layout differs by the logits themselves."""

GELU_TOLERANCE = 5e-3
"""The same, at least, for a model with GELU, which llama.cpp looks up in a table of 16-bit numbers."""

N_POSITIONS = 512


def verify_gguf(
    path: Path,
    config: ModelConfig,
    parameters: Mapping[str, Tensor],
    tokenizer: TextTokenizer,
    *,
    dtype: str,
    notice: Callable[[str], None],
) -> Proof:
    """Compare a GGUF file with the run that it was written from.

    Args:
        path: the file.
        config: the run's shape.
        parameters: its parameters by name, on the CPU.
        tokenizer: its tokenizer.
        dtype: of the file.
        notice: told where llama.cpp is installed and cannot be used.

    Returns:
        What was equal. `by` is llama.cpp where it is installed; `logit_difference` is that from the run's logits, so
        with the rounding of the weights.

    Raises:
        InteropError: something differs; the message says what.
    """
    config = resolve_shape(config)
    found = read_gguf(path)
    _check_config(found.config, config)
    _check_weights(found.parameters, parameters, dtype, vocab_size=tokenizer.vocab_size)
    cases = _check_tokenizer(found.tokenizer, tokenizer)
    run, file = _model(config, parameters, tokenizer), _model(found.config, found.parameters, tokenizer)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(tokenizer.vocab_size, (min(config.context_length, N_POSITIONS),), generator=generator).tolist()
    prompt = ids[: n_prompt(config.context_length)]
    n_continued = min(N_CONTINUED, config.context_length - len(prompt))
    answer = ask_llama_cpp(path, [text for text, _ in cases], ids, len(prompt), n_continued, notice)
    logits, rounded, tolerance = _logits(run, ids), _logits(file, ids), _tolerance(config, dtype)
    if answer is None:
        by, theirs = "smalllm, for llama.cpp is not installed", rounded
        _check_continuation(run, prompt, _continue(file, prompt, n_continued), by="the file", tolerance=tolerance)
    else:
        by, theirs = f"llama.cpp (llama-cpp-python {answer.version})", answer.logits
        _check_llama_cpp(answer, cases, tokenizer, found.tokenizer, by=by)
        _check_logits(rounded, theirs, by=by, tolerance=tolerance)
        _check_continuation(file, prompt, answer.continued, by=by, tolerance=tolerance)
    return Proof(by, len(ids), float((theirs - logits).abs().max()), len(cases), n_continued)


def _check_config(found: ModelConfig, config: ModelConfig) -> None:
    for field in fields(config):
        theirs, ours = getattr(found, field.name), getattr(config, field.name)
        if field.name in ("dropout", "init") or (field.name == "rope_theta" and config.position == "learned"):
            continue  # not of a finished model
        if isinstance(ours, float):
            theirs, ours = np.float32(theirs), np.float32(ours)
        if theirs != ours:
            raise _differs(f"model.{field.name} is {theirs!s} in the file and {ours!s} in the run")


def _check_weights(
    found: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dtype: str, *, vocab_size: int
) -> None:
    for name, parameter in parameters.items():
        n_rows = vocab_size if name.startswith(("token_embedding", "lm_head")) else len(parameter)
        rounded = _rounded(parameter.detach().float()[:n_rows], type_of(name, parameter, dtype))
        if name not in found or not torch.equal(found[name][:n_rows], rounded):
            raise _differs(f"{name} does not come back as it went out")


def _rounded(values: Tensor, type: str) -> Tensor:
    """FP32 numbers as they are after rounding: by torch, where it can."""
    if type == "q8_0":
        gguf = import_gguf()
        kind = gguf.GGMLQuantizationType.Q8_0
        return torch.from_numpy(gguf.dequantize(gguf.quantize(values.numpy(), kind), kind))
    return values.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[type]).float()


def _check_tokenizer(found: GGUFTokenizer, tokenizer: TextTokenizer) -> list[tuple[str, list[int]]]:
    """Texts and the ids that the file's lists make of them."""
    ours = gguf_tokenizer(tokenizer)
    for field in fields(ours):
        if getattr(found, field.name) != getattr(ours, field.name):
            raise _differs(f"the tokenizer's {field.name} does not come back as it went out")
    cases, encode = make_cases(TEXTS, tokenizer, found), make_encoder(found)
    for text, ids in cases:
        if (theirs := encode(text)) != ids:
            raise _differs(_differing_ids(text, ids, theirs, by="the file's tokenizer"))
    return cases


def _model(config: ModelConfig, parameters: Mapping[str, Tensor], tokenizer: TextTokenizer) -> GPT:
    model = GPT(config, vocab_size=tokenizer.vocab_size)
    model.load_state_dict(dict(parameters), strict=not config.tie_embeddings)
    return model.eval()


def _check_llama_cpp(
    answer: LlamaCppAnswer,
    cases: Sequence[tuple[str, list[int]]],
    tokenizer: TextTokenizer,
    lists: GGUFTokenizer,
    *,
    by: str,
) -> None:
    for (text, ids), theirs in zip(cases, answer.ids, strict=True):
        if theirs != ids:
            raise _differs(_differing_ids(text, ids, theirs, by=by))
    for i, (ours, piece, type) in enumerate(zip(tokenizer.token_bytes, answer.pieces, lists.types, strict=True)):
        if type in (NORMAL, BYTE) and ours and ours != piece:
            raise _differs(f"id {i} is {ours!r} here and {piece!r} in {by}")


def _tolerance(config: ModelConfig, dtype: str) -> float:
    return max(TOLERANCES[dtype], GELU_TOLERANCE if config.mlp == "gelu" else 0.0)


def _logits(model: GPT, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


def _check_logits(ours: Tensor, theirs: Tensor, *, by: str, tolerance: float) -> None:
    difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not difference <= tolerance * max(1.0, largest):
        raise _differs(
            f"the logits of {by} differ by {difference:.3g}, where the largest is {largest:.3g}; at most "
            f"{tolerance:g} of it was expected"
        )


def _continue(model: GPT, prompt: Sequence[int], n_continued: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n_continued):
        ids.append(int(_logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


def _check_continuation(model: GPT, prompt: Sequence[int], made: Sequence[int], *, by: str, tolerance: float) -> None:
    """Each token made is our best, or as good but for rounding."""
    after = _logits(model, [*prompt, *made])[len(prompt) - 1 :]
    for i, token_id in enumerate(made):
        logits, best = after[i], int(after[i].argmax())
        if logits[best] - logits[token_id] > 2 * tolerance * max(1.0, float(logits.abs().max())):
            raise _differs(
                f"the greedy continuations differ: {by} writes id {token_id}, smalllm {best}, after "
                f"{[*prompt, *made[:i]]}"
            )


def _differing_ids(text: str, ours: Sequence[int], theirs: Sequence[int], *, by: str) -> str:
    return f"the token ids of {text[:60]!a} are {list(ours[:20])} here and {list(theirs[:20])} in {by}"


def _differs(what: str) -> InteropError:
    return InteropError(
        f"the GGUF file is not the run: {what}. Nothing was kept; please report this model's config.toml"
    )
