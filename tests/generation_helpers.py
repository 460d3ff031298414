"""Decoders of small models, and what they make of prompts."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from smalllm.generation.decoder import Decoder
from smalllm.generation.engine import Generation, run_prompts
from smalllm.generation.native import load_decoder
from smalllm.generation.readers import Backend
from smalllm.generation.sampling import SamplingConfig
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes

BYTES = build_bytes()
NEVER = -1  # an end-of-document id that is never drawn
GREEDY = SamplingConfig(temperature=0.0, max_tokens=8)
BACKENDS: list[Backend] = ["torch"] if isinstance(load_decoder(), str) else ["compiled", "torch"]
PROMPTS = [[7, 3, 3, 50], [1], [20, 30, 40], [5] * 11, [9, 8]]


def make_decoder(model: GPT, *, n_slots: int = 4, eos_id: int = NEVER, **options: object) -> Decoder:
    return Decoder(model, n_slots=n_slots, eos_id=eos_id, **options)  # type: ignore[arg-type]


def run_alone(decoder: Decoder, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Generation]:
    return [run_prompts(decoder, [(prompt, sampling)])[0] for prompt in prompts]


def run_together(decoder: Decoder, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[Generation]:
    return run_prompts(decoder, [(prompt, sampling) for prompt in prompts])


@torch.no_grad()
def greedy_by_full_passes(model: GPT, prompt: Sequence[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def with_tokens(n: int, sampling: SamplingConfig = GREEDY) -> SamplingConfig:
    return replace(sampling, max_tokens=n)
