"""A document as the sources give it: text, where it is from, and what the source knows about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or a part of a text too long to hold at once.

    Attributes:
        text: what it says; never empty.
        origin: `folder/file.jsonl:12` for messages, the number being the line, row or piece; never absolute.
        split: train or val where the source says so.
        log_prob: logarithm of the probability the source gave it [nats], where it knows.
        final: False where the next `Document` continues this one, so that no end token belongs between them.
    """

    text: str
    origin: str
    split: str | None = None
    log_prob: float | None = None
    final: bool = True
