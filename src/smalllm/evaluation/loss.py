"""Loss, perplexity, bits per token and byte, accuracy, over batches of scored targets.

    loss           nats / scored tokens                                    [nats/token]
    bits_per_token loss / ln 2                                             [bits/token]
    bits_per_byte  nats of text tokens / (ln 2 * UTF-8 bytes of the same)  [bits/byte]
    accuracy       share of scored tokens that were the likeliest

Special tokens count in the loss and not in bits_per_byte, neither their nats nor (they have none) their bytes.
Source for bits per byte: Gao et al. 2020 (The Pile), section 3.1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from smalllm import runtime
from smalllm.data.padded import IGNORED
from smalllm.errors import DataError
from smalllm.evaluation.details import Details, rank_targets
from smalllm.model.documents import Documents, find_documents

_ROWS = 1_024  # whose losses are computed at once


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over the scored tokens, from which every measure follows; scores of parts add up.

    Attributes:
        nats: summed negative log-likelihood of all scored tokens.
        tokens: how many.
        text_nats: the same sum over tokens that stand for text.
        text_bytes: UTF-8 bytes of those.
        correct: tokens that the model thought likeliest.
    """

    nats: float = 0.0
    tokens: int = 0
    text_nats: float = 0.0
    text_bytes: int = 0
    correct: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.text_nats + other.text_nats,
            self.text_bytes + other.text_bytes,
            self.correct + other.correct,
        )

    def measures(self) -> dict[str, float]:
        """The val keys of `metrics.jsonl`.

        Raises:
            DataError: nothing was scored.
        """
        if self.tokens == 0 or self.text_bytes == 0:
            raise DataError("no text was scored: the validation split is empty or holds only special tokens")
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_token": loss / math.log(2),
            "bits_per_byte": bits_per_byte(self.text_nats, self.text_bytes),
            "accuracy": self.correct / self.tokens,
        }


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Summed loss as bits per byte of the original text; does not depend on the vocabulary.

    Args:
        nats: summed negative log-likelihood of the scored text tokens.
        n_bytes: UTF-8 length of the same tokens.

    Raises:
        ValueError: `n_bytes` is not positive.
    """
    if n_bytes <= 0:
        raise ValueError(f"n_bytes = {n_bytes}: must be positive")
    return nats / (math.log(2) * n_bytes)


@torch.no_grad()
def score_model(
    model: nn.Module,
    batches: Iterable[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]],
    *,
    token_byte_lengths: NDArray[np.int64],
    device: str,
    precision: str,
    eos_id: int | None = None,
    details: Details | None = None,
) -> Score:
    """Score a model on batches of inputs and targets; targets of -100 are left out.

    Args:
        model: gives logits [B T V]; put into evaluation mode.
        batches: inputs and targets, of any shapes.
        token_byte_lengths: bytes of text each id stands for; 0 for special tokens.
        device: where the model is.
        precision: of its matrix products.
        eos_id: given, attention stays inside documents, each of which this token opens (see `model/documents.py`).
        details: given, the loss by position and frequency is added to it.
    """
    model.eval()
    lengths = torch.from_numpy(token_byte_lengths).to(device)
    total = Score()
    for token_ids, targets in batches:
        inputs = token_ids.to(device)
        documents = None if eos_id is None else find_documents(inputs, eos_id=eos_id)
        options = {} if documents is None else {"documents": documents}
        with runtime.autocast(device, precision):
            logits = model(inputs, **options)
        total += score_logits(logits, targets.to(device), token_byte_lengths=lengths)
        if details is not None:
            add_details(details, logits, targets.to(device), token_byte_lengths=lengths, documents=documents)
    return total


def score_logits(
    logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"], *, token_byte_lengths: Int[Tensor, " V"]
) -> Score:
    """Score one batch of logits; some rows at a time, since in FP32 they take several times their memory."""
    rows = zip(logits.flatten(0, 1).split(_ROWS), targets.flatten().split(_ROWS), strict=True)
    nats = torch.cat([F.cross_entropy(some.float(), ids, ignore_index=IGNORED, reduction="none") for some, ids in rows])
    nats = nats.cpu().double()  # mps has no FP64
    is_scored = targets.flatten() != IGNORED
    bytes_each = torch.where(is_scored, token_byte_lengths[targets.flatten().clamp(min=0)], 0).cpu()
    correct = (logits.argmax(-1) == targets).flatten() & is_scored
    return Score(
        nats=nats.sum().item(),
        tokens=int(is_scored.sum()),
        text_nats=nats[bytes_each > 0].sum().item(),
        text_bytes=int(bytes_each.sum()),
        correct=int(correct.sum()),
    )


def add_details(
    details: Details,
    logits: Float[Tensor, "B T V"],
    targets: Int[Tensor, "B T"],
    *,
    token_byte_lengths: Int[Tensor, " V"],
    documents: Documents | None = None,
) -> None:
    """Count one batch of logits into `details`; positions are those in the window, or in the document."""
    nats = torch.stack(
        [
            F.cross_entropy(row.float(), wanted, ignore_index=IGNORED, reduction="none")
            for row, wanted in zip(logits, targets, strict=True)
        ]
    )
    window = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
    details.add(
        nats,
        targets,
        ranks=rank_targets(logits, targets),
        positions=window if documents is None else documents.positions,
        n_bytes=token_byte_lengths[targets.clamp(min=0)],
    )
