"""What a preparation found, beyond what training needs: counted batch by batch, written beside the manifest.

The same input gives the same bytes, whatever the interruptions and the number of processes.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.data.durable import write_json
from smalllm.data.pieces import Batch
from smalllm.errors import DataError
from smalllm.protocols import Tokenizer

FORMAT = "smalllm-summary"
VERSION = 1
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True, slots=True)
class Longest:
    """The document with the most tokens, its end not counted; the first one of several."""

    tokens: int = 0
    text_bytes: int = 0
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over the pieces so far.

    Attributes:
        documents: those that were kept.
        tokens: end-of-document tokens included.
        text_bytes: UTF-8 length of the text [bytes].
        duplicates: documents that were dropped since their text had come before.
        partial_tokens: tokens that stand for a part of a character, or are unknown.
        longest: the longest document.
        open: what is known of a document whose last piece has not come; its origin is that of the first piece.
    """

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    duplicates: int = 0
    partial_tokens: int = 0
    longest: Longest = Longest()
    open: Longest = Longest()

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token of text; end-of-document tokens stand for none."""
        return self.text_bytes / max(1, self.tokens - self.documents)

    @property
    def partial_share(self) -> float:
        """The share of `partial_tokens` in the tokens of text."""
        return self.partial_tokens / max(1, self.tokens - self.documents)


def partial_tokens(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """For each id, whether it stands for no text or for a part of a character only [vocab_size]."""
    found = np.array([not _is_text(token) for token in tokenizer.token_bytes])
    found[tokenizer.eos_id] = False
    return found


def count_batch(tally: Tally, batch: Batch, *, is_partial: NDArray[np.bool_]) -> Tally:
    """The tally with one batch more.

    Args:
        tally: of what came before.
        batch: the next pieces; `dropped` of the last one is taken for `duplicates`.
        is_partial: for each id, whether it stands for a part of a character [vocab_size].
    """
    text_bytes = np.array([len(piece.raw) for piece in batch.pieces], dtype=np.int64)
    ends = np.flatnonzero([piece.final for piece in batch.pieces])
    last = len(ends)
    tokens_of = _sums_up_to(batch.lengths, ends, before=tally.open.tokens)
    bytes_of = _sums_up_to(text_bytes, ends, before=tally.open.text_bytes)
    starts = [0, *(ends + 1).tolist()]
    longest, tokens_of[:last] = tally.longest, tokens_of[:last] - 1

    def document(index: int) -> Longest:
        # Files, not folders: the same files elsewhere give the same bytes.
        is_open = index == 0 and tally.open.origin
        origin = tally.open.origin if is_open else batch.pieces[starts[index]].origin.rsplit("/", 1)[-1]
        return Longest(int(tokens_of[index]), int(bytes_of[index]), origin)

    if last and tokens_of[:last].max() > longest.tokens:
        longest = document(int(tokens_of[:last].argmax()))
    return replace(
        tally,
        documents=tally.documents + last,
        tokens=tally.tokens + len(batch.ids),
        text_bytes=tally.text_bytes + int(text_bytes.sum()),
        duplicates=batch.pieces[-1].dropped,
        partial_tokens=tally.partial_tokens + int(np.count_nonzero(is_partial[batch.ids])),
        longest=longest,
        open=Longest() if batch.pieces[-1].final else document(last),
    )


def end_open(tally: Tally) -> Tally:
    """The tally when the document in hand has ended without a last piece."""
    longest = max(tally.longest, tally.open, key=lambda document: document.tokens)
    return replace(tally, documents=tally.documents + 1, tokens=tally.tokens + 1, longest=longest, open=Longest())


def write_summary(directory: Path, tally: Tally) -> None:
    """Write `directory/summary.json`, whole or not at all."""
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(tally)}
    del content["open"]
    write_json(directory / SUMMARY_NAME, content)


def read_summary(directory: Path) -> Tally | None:
    """What `write_summary` wrote; None if there is nothing, as beside shards of an older version.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / SUMMARY_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found.pop("format"), found.pop("version")) != (FORMAT, VERSION):
            raise ValueError
        return tally_of(found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(
            f"{path}: not a summary of prepared data, or damaged. Nothing depends on it: delete it."
        ) from None


def tally_of(found: dict[str, Any]) -> Tally:
    """A tally as it was before it became JSON."""
    records: dict[str, Any] = {key: Longest(**found[key]) for key in ("longest", "open") if key in found}
    return Tally(**(found | records))


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def _sums_up_to(values: NDArray[np.int64], ends: NDArray[np.intp], *, before: int) -> NDArray[np.int64]:
    """Sums over the documents that end at `ends`, and over what is left after the last of them [ends + 1]."""
    running = np.concatenate([[0], np.cumsum(values)[ends], [values.sum()]])
    sums: NDArray[np.int64] = np.diff(running)
    sums[0] += before
    return sums
