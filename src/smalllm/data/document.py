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


@dataclass(slots=True)
class Reading:
    """How far the readers have come, kept up by them for whoever tells the user how long it will take.

    Attributes:
        total_bytes: size of the files as they lie on disk, or another measure of the whole; 0: not known.
        before_bytes: those of the files that were read to their end.
        file_bytes: how far the file in hand has been read.
    """

    total_bytes: int = 0
    before_bytes: int = 0
    file_bytes: int = 0

    @property
    def share(self) -> float | None:
        """How much has been read [0 to 1]; None where it is not known."""
        if not self.total_bytes:
            return None
        return min(1.0, (self.before_bytes + self.file_bytes) / self.total_bytes)
