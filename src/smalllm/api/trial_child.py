"""A few updates in a process of their own, so that their peak memory is their own.

Started by `trial.py` as `python -m smalllm.api.trial_child`. The first line of standard input is the request, a JSON
object; each line after it asks for an update of so many micro-batches, and is answered by a line: its seconds, and the
peak memory so far. Before the first answer it has compiled. It ends with its parent.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smalllm import runtime
from smalllm.config import RunConfig
from smalllm.interop.families import family_of
from smalllm.interop.hf_config import write_hf_config
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers
from smalllm.recipes import from_dict
from smalllm.training.step import make_loss_function, train_step

Update = Callable[[Sequence[Tensor]], None]
"""Trains on micro-batches of token ids [B T + 1]."""

OURS, THEIRS = "smalllm", "transformers"


def main() -> None:
    """Answer until the parent closes its end, or ends."""
    request = json.loads(sys.stdin.readline())
    # What a library prints must not get between the answers: the real output is kept apart.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        config = from_dict(request["config"])
        device = config.train.device
        torch.set_num_threads(config.train.threads or 1)
        build = {OURS: _ours, THEIRS: _theirs}[request["library"]]
        update = build(config, request)
        batches = make_micro_batches(config, vocab_size=request["vocab_size"], n=request["micro_batches"])
        for _ in range(2):  # the first compiles, and allocates the optimizer's state
            seconds = _timed(update, batches)
        while True:
            answer = {"seconds": seconds, "peak_memory_bytes": runtime.peak_memory_bytes(device)}
            out.write(json.dumps(answer) + "\n")
            out.flush()
            asked = sys.stdin.readline()
            if not asked:
                return
            seconds = _timed(update, batches[: int(asked)])


def _timed(update: Update, batches: Sequence[Tensor]) -> float:
    device = batches[0].device.type
    runtime.synchronize(device)
    started_at = time.perf_counter()
    update(batches)
    runtime.synchronize(device)
    return time.perf_counter() - started_at


def make_micro_batches(config: RunConfig, *, vocab_size: int, n: int) -> list[Tensor]:
    """Drawn token ids [B T + 1], the same in every process."""
    generator = torch.Generator().manual_seed(config.train.seed)
    assert isinstance(config.train.micro_batch_size, int)
    shape = (config.train.micro_batch_size, config.model.context_length + 1)
    drawn = [torch.randint(vocab_size, shape, generator=generator) for _ in range(n)]
    return [ids.to(config.train.device) for ids in drawn]


def _ours(config: RunConfig, request: Mapping[str, Any]) -> Update:
    train = config.train
    runtime.configure(threads=train.threads or 1, precision=train.precision)
    model = GPT(config.model, vocab_size=request["vocab_size"])
    init_weights(model, seed=train.seed)
    model.to(train.device).train()
    model.recompute_every = train.activation_checkpointing
    optimizers = build_optimizers(model, config.optim)
    loss_function = make_loss_function(
        train.device,
        train.precision,
        compile_it=bool(train.compile),
        eos_id=0 if config.data.document_mask else None,  # any id: the ids are drawn, and the mask costs the same
        n_chunks=train.loss_chunks,
    )

    def update(batches: Sequence[Tensor]) -> None:
        pairs = [(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for ids in batches]
        train_step(model, optimizers, pairs, loss_function, seed=0, step=0, clip_norm=config.optim.clip_norm)

    return update


def _theirs(config: RunConfig, request: Mapping[str, Any]) -> Update:
    """As `transformers.Trainer` does it: AdamW, fused, the loss that the model computes, the norm clipped at 1."""
    import transformers

    train, family = config.train, family_of(config.model)
    shape = write_hf_config(family, config.model, vocab_size=request["vocab_size"], eos_id=0, dtype="f32")
    shape |= hf_dropout(family.name, config.model.dropout)
    theirs = transformers.AutoConfig.for_model(**{k: v for k, v in shape.items() if k not in ("smalllm", "dtype")})
    theirs.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(theirs).to(train.device).train()
    forward = torch.compile(model) if train.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, fused=True)

    def update(batches: Sequence[Tensor]) -> None:
        for ids in batches:
            inputs = ids[:, :-1].contiguous()
            with runtime.autocast(train.device, train.precision):
                loss = forward(input_ids=inputs, labels=inputs).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def hf_dropout(family: str, dropout: float) -> dict[str, float]:
    """The keys by which a class drops what our model drops; empty where it cannot, or nothing is dropped."""
    keys = {
        "gpt2": ("attn_pdrop", "embd_pdrop", "resid_pdrop"),
        "starcoder2": ("attention_dropout", "embedding_dropout", "residual_dropout"),
    }
    return dict.fromkeys(keys.get(family, ()), dropout)


if __name__ == "__main__":
    main()
