"""The proof of an export or import: transformers, which shares no code with us, computes the same from the same files.

Compared are the weights read back, the logits over a whole context of random ids, the token ids of awkward texts, and
a greedy continuation.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalllm.errors import InteropError
from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES

LOGIT_TOLERANCE = 1e-4
"""Largest difference between two implementations, as a share of the largest logit: both compute in FP32, but add up in
another order, layer after layer. A wrong layout differs by the logits themselves."""

MAX_POSITIONS = 1024
N_CONTINUED = 16
TEXTS = (*PROBES, "", " ", "\n\n", "Once upon a time, there was a little girl named Lily. " * 20)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found equal, and how nearly.

    Attributes:
        by: the program that was compared with, and its version.
        n_positions: random token ids whose logits were compared.
        logit_difference: the largest difference of any logit.
        n_texts: texts whose token ids were compared; 0 where there was no tokenizer to compare.
        n_continued: tokens that both continued a prompt with, greedily.
    """

    by: str
    n_positions: int
    logit_difference: float
    n_texts: int
    n_continued: int


def verify_with_transformers(
    directory: Path, model: GPT, tokenizer: Tokenizer | None, *, tokenizer_class: str = "AutoTokenizer"
) -> Proof:
    """Load a checkpoint folder with transformers and compare it with our model.

    Args:
        directory: the folder.
        model: ours, on the CPU in FP32, in evaluation mode.
        tokenizer: ours; None compares no token ids.
        tokenizer_class: what loads theirs. `PreTrainedTokenizerFast` does what the folder's `tokenizer.json` says;
            for some classes named in a folder, `AutoTokenizer` of transformers 5 builds another one instead.

    Raises:
        InteropError: transformers is not installed, cannot load the folder, or computes something else.
    """
    transformers = import_transformers()
    with _quiet(transformers):
        try:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, local_files_only=True
            ).eval()
        except Exception as error:  # whatever a library of this size raises on a folder it cannot take
            raise InteropError(
                f"{directory}: transformers {transformers.__version__} cannot load the model ({error})"
            ) from error
        if theirs.config.vocab_size < model.vocab_size:
            raise InteropError(
                f"{directory}: {theirs.config.vocab_size:,} ids in transformers, {model.vocab_size:,} here"
            )
        n_positions, difference = _compare_logits(model, theirs)
        n_continued = _compare_continuations(model, theirs)
        n_texts = (
            0 if tokenizer is None else _compare_texts(directory, tokenizer, getattr(transformers, tokenizer_class))
        )
    return Proof(f"transformers {transformers.__version__}", n_positions, difference, n_texts, n_continued)


def import_transformers() -> Any:
    """The transformers package.

    Raises:
        InteropError: it is not installed; the message has the line that installs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise InteropError(
            "an export proves itself with transformers, which is not installed: pip install 'smalllm[hf]'"
        ) from error
    return transformers


def n_prompt(context_length: int) -> int:
    """Random tokens that a continuation begins with: at least one, and where it can be, room for more is left."""
    return max(1, min(8, context_length // 2))


def check_logits(ours: Tensor, theirs: Tensor, *, by: str) -> float:
    """The largest difference of two sets of logits.

    Raises:
        InteropError: it is more than `LOGIT_TOLERANCE` of the largest logit, or not a number.
    """
    difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not difference <= LOGIT_TOLERANCE * max(1.0, largest):
        raise InteropError(
            f"the logits differ: by {difference:.3g} from those of {by}, where the largest is {largest:.3g}; "
            f"at most {LOGIT_TOLERANCE:g} of it was expected. Nothing was kept; please report this model's config.toml"
        )
    return difference


def _compare_logits(model: GPT, theirs: Any) -> tuple[int, float]:
    n_positions = min(model.config.context_length, MAX_POSITIONS)
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(model.vocab_size, (1, n_positions), generator=generator)
    with torch.no_grad():
        ours, other = model(token_ids), theirs(token_ids).logits[..., : model.vocab_size]
    return n_positions, check_logits(ours, other, by="transformers")


def _compare_continuations(model: GPT, theirs: Any) -> int:
    """Greedy, from a random prompt; two ids whose logits are equal but for rounding may swap."""
    n_given = n_prompt(model.config.context_length)
    n_continued = min(N_CONTINUED, model.config.context_length - n_given)
    if not n_continued:
        return 0
    token_ids = torch.randint(model.vocab_size, (1, n_given), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = theirs.generate(
            token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=n_continued, do_sample=False
        )[0, n_given:]
        for token_id in made.tolist():
            logits = model(token_ids)[0, -1]
            best, tolerance = int(logits.argmax()), LOGIT_TOLERANCE * max(1.0, float(logits.abs().max()))
            if token_id >= model.vocab_size or logits[best] - logits[token_id] > 2 * tolerance:
                raise InteropError(
                    f"the greedy continuations differ: transformers writes id {token_id}, smalllm {best}, after "
                    f"{token_ids[0].tolist()}. Nothing was kept"
                )
            token_ids = torch.cat([token_ids, torch.tensor([[token_id]])], dim=1)
    return len(made)


def _compare_texts(directory: Path, tokenizer: Tokenizer, tokenizer_class: Any) -> int:
    try:
        theirs = tokenizer_class.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # as above
        raise InteropError(f"{directory}: transformers cannot load the tokenizer ({error})") from error
    # A user's own vocabulary may take U+2581 for a space in other programs; smalllm never does.
    texts = [text for text in TEXTS if tokenizer.kind != "huggingface" or MARKER not in text]
    for text in texts:
        # Special tokens spelled in a text are text to us; to transformers only when asked.
        found = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if found != tokenizer.encode(text):
            raise InteropError(
                f"the token ids of {text[:60]!a} differ: {tokenizer.encode(text)[:20]} here, {found[:20]} from "
                "transformers. Nothing was kept"
            )
    return len(texts)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' own bars and notices, which speak of folders that are about to move."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
