"""What a model is asked: how likely is this continuation after that context? From text to token ids.

Cut into tokens as lm-evaluation-harness does it, so that its numbers and ours are the same, question by question:
context and continuation are encoded together, white space at the end of the context goes to the continuation, an empty
context becomes the end token, and what does not fit into the context window is cut off from the left.

Source: EleutherAI/lm-evaluation-harness 0.4.13, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smalllm.errors import DataError
from smalllm.protocols import Tokenizer


@dataclass(frozen=True, slots=True)
class Request:
    """A continuation to be scored.

    Attributes:
        inputs: the ids that the model reads, as many as its context at most.
        targets: the ids that are scored: those that follow the last `len(targets)` inputs.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """What turns text into requests.

    Attributes:
        tokenizer: of the model.
        context_length: most ids it reads.
        opening: ids before a text, for a model that has seen every document begin with them.
    """

    tokenizer: Tokenizer
    context_length: int
    opening: tuple[int, ...] = ()

    def pairs(self, context: str, continuations: Sequence[str], *, where: str) -> list[Request]:
        """One request for each continuation of a context.

        Args:
            context: may be empty.
            continuations: each with the space that separates it.
            where: file and line of the question, for messages.

        Raises:
            DataError: a continuation has no token of its own, or does not fit into the context window.
        """
        bare = context.rstrip()
        spaces = context[len(bare) :]
        before = [*self.opening, *self.tokenizer.encode(bare)]
        return [self._request(before, bare, spaces + text, where=where) for text in continuations]

    def _request(self, before: list[int], context: str, continuation: str, *, where: str) -> Request:
        whole = [*self.opening, *self.tokenizer.encode(context + continuation)]
        if not context:
            # lm-evaluation-harness gives an empty context the end token, and only that
            before, whole = [self.tokenizer.eos_id], [self.tokenizer.eos_id, *whole[len(self.opening) :]]
        targets = whole[len(before) :]
        if not targets:
            raise DataError(f"{where}: {continuation!r} adds no token to what stands before it; correct or remove it")
        if len(targets) > self.context_length:
            raise DataError(
                f"{where}: a continuation has {len(targets):,} tokens, and the model reads {self.context_length:,}; "
                "leave it out, or evaluate a model with a longer context"
            )
        inputs = [*before, *targets][-(self.context_length + 1) : -1]
        return Request(tuple(inputs), tuple(targets))

    def rolling(self, text: str) -> list[Request]:
        """A whole text: every token is a target once, the first one after the end token. Empty text: nothing."""
        ids = [self.tokenizer.eos_id, *self.tokenizer.encode(text)]
        windows = rolling_windows(len(ids) - 1, context_length=self.context_length, stride=self.context_length)
        return [
            Request(tuple(ids[start:stop]), tuple(ids[stop + 1 - n_scored : stop + 1]))
            for start, stop, n_scored in windows
        ]


def rolling_windows(n_targets: int, *, context_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over a sequence, in which every target is scored once and with as much context as there is room for.

    Yields (start, stop, n_scored): the inputs are at start … stop - 1, and the last n_scored of them are followed by
    targets that are scored. The first window scores all of its targets; each further one goes `stride` on, and the
    last one less, so that it is full too. A stride of the context length is what lm-evaluation-harness does.

    Args:
        n_targets: how many are to be scored; target i follows input i.
        context_length: inputs per window, at most.
        stride: targets per window after the first: from 1 to context_length.
    """
    stop = min(context_length, n_targets)
    if n_targets:
        yield 0, stop, stop
    while stop < n_targets:
        n_scored = min(stride, n_targets - stop)
        stop += n_scored
        yield stop - context_length, stop, n_scored
