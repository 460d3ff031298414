"""Which positions of a window belong together, when it holds several documents that must not see each other.

The end-of-document token ends a document as a target, and as an input it opens the next one: that is how a new
document starts at generation too. So a document's first token is predicted from an end token that sees nothing but
itself, and every token of a window still counts as a target once. The window's first tokens, up to its first end token,
are the rest of a document whose beginning is not there; their positions count from the window's start.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Documents:
    """What a model must know of the documents in its windows.

    Attributes:
        positions: how many tokens of its own document come before each token.
        mask: which positions (last axis) each position sees: its own and the earlier ones of its document.
    """

    positions: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B 1 T T"]


def find_documents(token_ids: Int[Tensor, "B T"], *, eos_id: int) -> Documents:
    """The documents in windows of inputs; each `eos_id` opens one."""
    numbers = (token_ids == eos_id).cumsum(dim=1)  # [B T]
    mask = (numbers[:, :, None] == numbers[:, None, :]).tril()
    return Documents(positions=mask.sum(dim=-1) - 1, mask=mask[:, None])
