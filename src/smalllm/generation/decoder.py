"""`Decoder`: a batch of slots in which sequences come and go; whoever drives it decides when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smalllm.errors import ConfigError
from smalllm.generation.filters import Report, Rows, draw_rows, log_probabilities
from smalllm.generation.readers import Backend, open_reader
from smalllm.generation.sampling import SamplingConfig, check_sampling, rows_of
from smalllm.generation.text import TextStream
from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer

FinishReason = Literal["stop", "length", "context"]
MOST_SLOTS = 32
"""Sequences that `generate_tokens` decodes at once."""


@dataclass(frozen=True, slots=True)
class Event:
    """One new token of one sequence.

    Attributes:
        slot: whose.
        token_id: the token; None where it is the one that ends a document, which is not part of the text.
        text: what can be shown since the last event; "" without a tokenizer.
        finish_reason: None while the sequence goes on; "stop" at the end-of-document token or a stop text, "length" at
            `max_tokens`, "context" where the context is full and the sequence was to stop there. After it the slot is
            free.
        n_dropped: oldest tokens, the prompt's included, that the model could not see when it drew this one.
        logprob: under the model itself, before any option changed it [nats]; None where not asked for.
        alternatives: the likeliest tokens likewise, as many as were asked for: (id, log-probability).
    """

    slot: int
    token_id: int | None
    text: str
    finish_reason: FinishReason | None
    n_dropped: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class _Sequence:
    sampling: SamplingConfig
    ids: list[int]  # the prompt and what was drawn
    n_prompt: int
    start: int  # index of the oldest token that the slot holds
    n_held: int  # positions that the slot holds
    generator: torch.Generator
    stream: TextStream | None


class Decoder:
    """Continues sequences together, one token of each per `step`. It has no threads and keeps no time.

    A server for many users at once ("continuous batching") is a loop over it:

        decoder = Decoder(model, n_slots=16, eos_id=tokenizer.eos_id, tokenizer=tokenizer)
        while True:
            while waiting and decoder.n_free:
                request = waiting.pop()
                of_slot[decoder.add(request.prompt_ids, request.sampling)] = request
            for event in decoder.step():           # [] where there is nothing to do
                of_slot[event.slot].send(event.text)
                if event.finish_reason:            # the slot is free again
                    of_slot.pop(event.slot).close()
        decoder.remove(slot)                       # whose user has gone, between two steps

    `add` only checks and takes a slot, and is quick. `step` reads what has waited longest, at most `prompt_tokens`
    tokens (but at least one prompt), and draws one token for each sequence that has been read; the others wait for the
    next. Equal prompts that wait together are read, and counted, once. All calls must come from one thread at a time.

    A sequence is decided by its prompt and its `SamplingConfig`, whose seed is its own, not by what else is in the
    batch: exactly so with the compiled decoder, which computes each row alike whatever its neighbours; with PyTorch up
    to rounding, which can tip a draw.

    A sequence that outgrows the context keeps its newest tokens: when its slot is full, the newer half of the context
    waits to be read again (`past_context="slide"`), or it ends ("stop"). `Event.n_dropped` counts what it forgot.

    Args:
        model: on `device`; put into evaluation mode. Weights that change later are not noticed.
        n_slots: most sequences at once; keys and values for a whole context of each are allocated here.
        eos_id: ends a sequence; also what an empty prompt starts from.
        tokenizer: for texts in events and stop texts.
        device: where the model is: cpu, cuda or mps.
        precision: of the weights: fp32, bf16, int8 (compiled decoder only), tf32 and fp16 (CUDA only).
        backend: compiled: `decode.cpp`, on CPUs with a C++ compiler; torch: PyTorch; auto: the first that works.
        prompt_tokens: see above.

    Raises:
        ConfigError: no slot, or the precision or backend is not to be had here.
    """

    def __init__(
        self,
        model: GPT,
        *,
        n_slots: int,
        eos_id: int,
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        backend: Backend = "auto",
        prompt_tokens: int = 2048,
    ) -> None:
        if n_slots < 1 or prompt_tokens < 1:
            raise ConfigError(f"n_slots = {n_slots}, prompt_tokens = {prompt_tokens}: each must be at least 1")
        self.n_slots, self.vocab_size = n_slots, model.vocab_size
        self.context_length = model.config.context_length
        self.backend, self._reader = open_reader(
            model.eval(), n_slots=n_slots, device=device, precision=precision, backend=backend
        )
        self._eos_id, self._tokenizer, self._device, self._prompt_tokens = eos_id, tokenizer, device, prompt_tokens
        self._sequences: dict[int, _Sequence] = {}
        self._waiting: list[int] = []  # slots that hold nothing yet, or no more; longest first
        self._rows: tuple[list[int], Rows] | None = None
        self._is_seen: Tensor | None = None  # [slots V], where a penalty needs it
        self._counts: Tensor | None = None

    @property
    def n_free(self) -> int:
        """Slots that `add` can still take."""
        return self.n_slots - len(self._sequences)

    @property
    def active(self) -> tuple[int, ...]:
        """Slots in use."""
        return tuple(sorted(self._sequences))

    def add(self, prompt_ids: Sequence[int], sampling: SamplingConfig) -> int:
        """Begin a sequence.

        Args:
            prompt_ids: may be empty: a new document. One longer than the context keeps its newest tokens, or is
                refused where `sampling.past_context` is "stop".
            sampling: how to draw; its seed is the sequence's own.

        Returns:
            Its slot.

        Raises:
            ConfigError: no slot is free, or the prompt or an option is wrong.
        """
        check_sampling(sampling, vocab_size=self.vocab_size)
        ids = list(prompt_ids) or [self._eos_id]
        self._check(ids, sampling)
        slot = next(i for i in range(self.n_slots) if i not in self._sequences)
        self._sequences[slot] = _Sequence(
            sampling=sampling,
            ids=ids,
            n_prompt=len(ids),
            start=max(0, len(ids) - self.context_length),
            n_held=0,
            generator=torch.Generator().manual_seed(sampling.seed),
            stream=None if self._tokenizer is None else TextStream(self._tokenizer, stop=sampling.stop),
        )
        self._waiting.append(slot)
        self._rows = None
        return slot

    def n_unread(self, *prompts: Sequence[int]) -> int:
        """Tokens that wait to be read, were these prompts added; equal ones count once."""
        further = {tuple(ids[-self.context_length :]) or (self._eos_id,) for ids in prompts}
        return sum(map(len, further.union(map(self._unread, self._waiting))))

    def remove(self, slot: int) -> None:
        """End a sequence before its time; its slot is free at once.

        Raises:
            ConfigError: nobody is in this slot.
        """
        if slot not in self._sequences:
            raise ConfigError(f"slot {slot}: nothing to remove; in use are {list(self.active)}")
        del self._sequences[slot]
        self._waiting = [waiting for waiting in self._waiting if waiting != slot]
        self._rows = None

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Draw the next token of each sequence, in the order of their slots; those whose prompt waits have none."""
        slots = self._ready()
        if not slots:
            return []
        logits = self._read(slots)
        if self._rows is None or self._rows[0] != slots:
            self._rows = slots, self._options_of(slots)
        rows, sequences = self._rows[1], [self._sequences[slot] for slot in slots]
        uniforms = [float(torch.rand((), generator=s.generator)) if s.sampling.temperature else 0.0 for s in sequences]
        drawn = draw_rows(
            logits,
            rows,
            torch.tensor(uniforms, device=self._device),
            is_seen=self._is_seen[slots] if self._is_seen is not None else None,
            counts=self._counts[slots] if self._counts is not None else None,
        )
        if rows.counts_tokens:
            assert self._is_seen is not None and self._counts is not None
            at = torch.tensor(slots, device=self._device)
            self._is_seen[at, drawn] = True
            self._counts[at, drawn] += 1
        reports = log_probabilities(logits, drawn, [s.sampling.logprobs for s in sequences])
        return [self._event(*of) for of in zip(slots, drawn.tolist(), reports, strict=True)]

    def _check(self, ids: Sequence[int], sampling: SamplingConfig) -> None:
        problems = []
        if not self.n_free:
            problems.append(f"all {self.n_slots} slots are in use; wait for an event with a finish_reason")
        wrong = [token_id for token_id in ids if not 0 <= token_id < self.vocab_size]
        if wrong and ids != [self._eos_id]:
            problems.append(
                f"prompt: token id {wrong[0]} is not below {self.vocab_size:,}; use the model's own tokenizer"
            )
        if sampling.past_context == "stop" and len(ids) > self.context_length:
            problems.append(
                f"the prompt has {len(ids):,} tokens and the model sees {self.context_length:,}; shorten it, or let "
                'past_context = "slide" use its end'
            )
        if sampling.stop and self._tokenizer is None:
            problems.append("stop: texts to stop at need a tokenizer; give the decoder one")
        if problems:
            raise ConfigError(problems)

    def _ready(self) -> list[int]:
        """Slots to be read now: all that go on, and of those that wait as many as fit, the first in any case."""
        chosen: set[tuple[int, ...]] = set()
        n_left, still = self._prompt_tokens, []
        for slot in self._waiting:
            row = self._unread(slot)
            n_new = 0 if row in chosen else len(row)
            if chosen and n_new > n_left:
                still.append(slot)
            else:
                chosen.add(row)
                n_left -= n_new
        self._waiting = still
        return sorted(self._sequences.keys() - still)

    def _unread(self, slot: int) -> tuple[int, ...]:
        """The tokens of a sequence that its slot does not hold."""
        sequence = self._sequences[slot]
        return tuple(sequence.ids[sequence.start + sequence.n_held :])

    def _read(self, slots: Sequence[int]) -> Tensor:
        rows = {slot: self._unread(slot) for slot in slots}
        starts = {slot: self._sequences[slot].n_held for slot in slots}
        keys = [slot if starts[slot] else rows[slot] for slot in slots]
        of_key: dict[int | tuple[int, ...], int] = {}  # equal prompts: the slot that is read, of which others copy
        for key, slot in zip(keys, slots, strict=True):
            of_key.setdefault(key, slot)
        readers = list(of_key.values())
        logits = self._reader.read(readers, [rows[slot] for slot in readers], [starts[slot] for slot in readers])
        for key, slot in zip(keys, slots, strict=True):
            self._sequences[slot].n_held += len(rows[slot])
            if of_key[key] != slot:
                self._reader.copy(of_key[key], slot)
        return logits if readers == slots else logits[[readers.index(of_key[key]) for key in keys]]

    def _options_of(self, slots: Sequence[int]) -> Rows:
        rows = rows_of(
            [self._sequences[slot].sampling for slot in slots], vocab_size=self.vocab_size, device=self._device
        )
        if rows.counts_tokens:  # counted anew when the batch changes, which is seldom
            shape = self.n_slots, self.vocab_size
            self._is_seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            self._counts = torch.zeros(shape, device=self._device)
            for slot in slots:
                sequence = self._sequences[slot]
                ids = torch.tensor(sequence.ids, device=self._device)
                self._is_seen[slot, ids] = True
                self._counts[slot] = ids[sequence.n_prompt :].bincount(minlength=self.vocab_size)
        else:
            self._is_seen = self._counts = None
        return rows

    def _event(self, slot: int, token_id: int, report: Report) -> Event:
        sequence = self._sequences[slot]
        stream, is_end = sequence.stream, token_id == self._eos_id
        text = "" if stream is None or is_end else stream.add(token_id)
        sequence.ids.append(token_id)
        reason: FinishReason | None = None
        n_dropped, is_full = sequence.start, sequence.n_held == self.context_length
        if is_end or (stream is not None and stream.is_stopped):
            reason = "stop"
        elif len(sequence.ids) - sequence.n_prompt >= sequence.sampling.max_tokens:
            reason = "length"
        elif is_full and sequence.sampling.past_context == "stop":
            reason = "context"
        if reason is not None:
            text += "" if stream is None else stream.end()
            self.remove(slot)
        elif is_full:  # the newer half is read again
            sequence.start, sequence.n_held = len(sequence.ids) - max(1, self.context_length // 2), 0
            self._waiting.append(slot)
        return Event(slot, None if is_end else token_id, text, reason, n_dropped, *report)
