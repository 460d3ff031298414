"""Continuations in OpenAI's form, whole or piece by piece as they grow."""

import codecs
from collections.abc import Sequence
from typing import Any

from smalllm.generation.decoder import Event
from smalllm.generation.filters import Report
from smalllm.protocols import Tokenizer

Echo = tuple[str, Sequence[int], Sequence[Report | None]]
"""A prompt that is repeated: its text, its ids, and what was said of each; the first has nothing before it."""

_LEAST = -9999.0


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """What one token looks like by itself; bytes that are no character show as U+FFFD."""
    return tokenizer.token_bytes[token_id].decode(errors="replace")


class Choice:
    """One continuation. What it is given comes out as a piece, with offsets that go on from the piece before.

    Args:
        index: of it in the response.
        tokenizer: of the model.
        logprobs: how many of the likeliest tokens are told with each; None: no log-probabilities.
        gives_ids: whether token ids are told.
        slides: whether it may outgrow the context; then it says how many tokens were forgotten.
        echo: what comes first.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        *,
        logprobs: int | None,
        gives_ids: bool,
        slides: bool,
        echo: Echo | None,
    ) -> None:
        self.n_tokens = 0
        self._index, self._tokenizer = index, tokenizer
        self._logprobs, self._gives_ids, self._slides, self._echo = logprobs, gives_ids, slides, echo
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at = 0

    def piece(self, events: Sequence[Event], *, is_last: bool = False) -> dict[str, Any]:
        """What is new, as a choice.

        Args:
            events: of this continuation; none where nothing is to be written.
            is_last: whether nothing follows although no event said so.
        """
        text, ids, reports = "", list[int](), list[Report | None]()
        if self._echo is not None:
            text, ids, reports = self._echo[0], list(self._echo[1]), list(self._echo[2])
            self._echo = None
        eos_id = self._tokenizer.eos_id
        text += "".join(event.text for event in events)
        ids += [eos_id if event.token_id is None else event.token_id for event in events]
        reports += [(event.logprob, event.alternatives) for event in events]
        self.n_tokens += len(events)
        reason = events[-1].finish_reason if events else "length" if is_last else None
        found: dict[str, Any] = {
            "index": self._index,
            "text": text,
            "logprobs": None if self._logprobs is None else self._told(ids, reports),
            "finish_reason": "length" if reason == "context" else reason,
        }
        if self._gives_ids:
            found["token_ids"] = ids
        if self._slides:
            found["n_dropped"] = events[-1].n_dropped if events else 0
        return found

    def _told(self, ids: Sequence[int], reports: Sequence[Report | None]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "tokens": [token_text(self._tokenizer, i) for i in ids],
            "token_logprobs": [None if report is None else _finite(report[0]) for report in reports],
            "top_logprobs": [self._likeliest(i, report) for i, report in zip(ids, reports, strict=True)],
            "text_offset": [self._offset(i) for i in ids],
        }
        if self._gives_ids:
            tops = [() if report is None else report[1] for report in reports]
            told["top_token_ids"] = [[i for i, _ in top] for top in tops]
            told["top_tokens"] = [[token_text(self._tokenizer, i) for i, _ in top] for top in tops]
            told["top_token_logprobs"] = [[_finite(logprob) for _, logprob in top] for top in tops]
        return told

    def _likeliest(self, token_id: int, report: Report | None) -> dict[str, float] | None:
        """By their texts, the chosen one among them; of tokens that look alike the likeliest stays."""
        if report is None:
            return None
        found: dict[str, float] = {}
        for i, logprob in (*report[1], (token_id, report[0])):
            found.setdefault(token_text(self._tokenizer, i), _finite(logprob))
        return found

    def _offset(self, token_id: int) -> int:
        """How many characters there were before a token; it is then counted itself."""
        at = self._at
        self._at += len(self._decoder.decode(self._tokenizer.token_bytes[token_id]))
        return at


def _finite(logprob: float | None) -> float:
    return max(_LEAST, _LEAST if logprob is None else logprob)
