#!/usr/bin/env python3
"""What each technique of training costs or saves here: time of an update, peak memory, and with --updates the loss.

A reference shape (8 layers of width 384, context 512, 16,000 ids, micro-batch 8, LayerNorm, GELU, RoPE, tied, AdamW) is
trained on drawn token ids beside the same with one technique switched. Each is a process of its own, so that its peak
memory is its own. The two take turns, an update each; the ratio of a round is the technique's time by the reference's,
and the median over the rounds is given with their range, so that other programs on the machine disturb both alike.

With --updates N, small models with and without each technique that can change what is learned are trained for N updates
on built-in stories, and their validation bits per byte are given. Prints a Markdown table.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import smalllm
from smalllm import runtime
from smalllm.api.here import configure_here
from smalllm.api.trial import Child, Contestant, started
from smalllm.api.trial_child import OURS
from smalllm.config import RunConfig
from smalllm.model.gpt import GPT
from smalllm.recipes import load_recipe, override

REFERENCE: dict[str, Any] = {
    "model.n_layers": 8, "model.n_heads": 6, "model.d_model": 384, "model.context_length": 512, "model.dropout": 0.0,
    "tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 16_000, "data.path": "data/not-there",
    "train.micro_batch_size": 8, "train.tokens_per_step": 4096, "train.max_steps": 1_000, "train.compile": False,
}  # fmt: skip
TECHNIQUES: dict[str, dict[str, Any]] = {
    "fp32 instead of bf16": {"train.precision": "fp32"},
    "compiled": {"train.compile": True},
    "Muon for the blocks' matrices": {"optim.kind": "muon"},
    "dropout 0.1": {"model.dropout": 0.1},
    "every block computed again": {"train.activation_checkpointing": 1},
    "every second block computed again": {"train.activation_checkpointing": 2},
    "logits in 16 parts": {"train.loss_chunks": 16},
    "both, every block and 16 parts": {"train.activation_checkpointing": 1, "train.loss_chunks": 16},
    "document mask": {"data.document_mask": True},
    "micro-batch 4, two of them": {"train.micro_batch_size": 4},
    "micro-batch 1, eight of them": {"train.micro_batch_size": 1},
    "QK-norm": {"model.qk_norm": True},
    "RMSNorm": {"model.norm": "rmsnorm"},
    "SwiGLU, as many parameters": {"model.mlp": "swiglu"},
    "learned positions": {"model.position": "learned"},
    "biases": {"model.bias": True},
    "untied": {"model.tie_embeddings": False},
    "2 key and value heads of 6": {"model.n_kv_heads": 2},
}
LEARNED = {
    **{name: changes for name, changes in TECHNIQUES.items() if "compiled" not in name and "micro" not in name},
    "zero initialisation": {"model.init": "zero"},
    "padded windows": {"data.packing": "padded"},
    "no weight decay": {"optim.weight_decay": 0.0},
    "no clipping": {"optim.clip_norm": 0.0},
    "beta2 0.99": {"optim.beta2": 0.99},
    "constant rate": {"optim.schedule": "constant"},
    "linear to 0": {"optim.schedule": "linear", "optim.min_lr_ratio": 0.0},
    "hold, then linear to 0": {"optim.schedule": "hold", "optim.min_lr_ratio": 0.0},
    "warmup of 10 %": {"optim.warmup_steps": None, "optim.warmup_fraction": 0.1},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "model.n_layers": 2, "model.n_heads": 4, "model.d_model": 256, "model.d_ff": None, "model.norm": "layernorm",
    "model.mlp": "gelu", "model.qk_norm": False, "model.init": "gpt2", "model.tie_embeddings": True,
    "optim.kind": "adamw", "optim.lr": 3e-3, "optim.muon_lr": 0.02, "optim.schedule": "cosine", "data.stories": 20_000,
    "optim.warmup_steps": 10, "eval.every": 0, "eval.sample_prompts": (), "eval.tokens": 65_536,
    "eval.final_tokens": 65_536, "train.compile": False, "train.max_minutes": None, "train.save_every": 0,
}  # fmt: skip


def main() -> int:
    """Measure, and print the tables."""
    options = read_options()
    chosen = [name for name in TECHNIQUES if wanted(name, options.only)]
    if options.compile:
        chosen = [name for name in chosen if name != "compiled"]
    if options.rounds and chosen:
        base = {"train.threads": options.threads, "train.compile": options.compile}
        print("| technique | time of an update | rounds | peak memory | |\n|---|---|---|---|---|", flush=True)
        with contestant({**REFERENCE, **base}) as reference:
            for name in chosen:
                with contestant({**REFERENCE, **base, **TECHNIQUES[name]}) as other:
                    print(row(name, reference, other, options.rounds), flush=True)
    if options.rounds and wanted("fused AdamW", options.only):
        print(
            f"\nAdamW's update of the reference shape, fused against for-each: {fused_ratio(options):.2f} of the time"
        )
    if options.updates:
        print(f"\n| technique | bits per byte after {options.updates} updates |\n|---|---|", flush=True)
        with tempfile.TemporaryDirectory(prefix="smalllm-techniques-") as folder:
            for name in ["as it is", *(name for name in LEARNED if wanted(name, options.only))]:
                found = [learned(Path(folder), LEARNED.get(name, {}), options, seed) for seed in range(options.seeds)]
                print(f"| {name} | {', '.join(f'{value:.4f}' for value in found)} |", flush=True)
    return 0


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--only", nargs="*", default=[], help="words of the techniques' names; absent: all")
    parser.add_argument("--rounds", type=int, default=5, help="updates of each, in turn; 0: none (default 5)")
    parser.add_argument("--compile", action="store_true", help="compile both; takes a minute more for each")
    parser.add_argument("--threads", type=int, default=runtime.n_physical_cores(), help="of the CPU")
    parser.add_argument("--updates", type=int, default=0, help="of each small model that is trained (default 0: none)")
    parser.add_argument("--seeds", type=int, default=1, help="how often each of them is trained (default 1)")
    return parser.parse_args()


def wanted(name: str, only: list[str]) -> bool:
    """Whether a technique was asked for."""
    return not only or any(word.lower() in name.lower() for word in only)


@contextlib.contextmanager
def contestant(changes: dict[str, Any]) -> Iterator[tuple[Child, int]]:
    """A process that trains so and waits, and how many micro-batches an update has."""
    config = override(load_recipe("tinystories"), changes)
    here = configure_here(config)
    train = here.config.train
    n_micro = train.tokens_per_step // (int(train.micro_batch_size) * config.model.context_length)
    how = Contestant(library=OURS, precision=train.precision, compile=bool(train.compile))
    with started(here.config, here.vocab_size, n_micro, how) as child:
        yield child, n_micro


def row(name: str, reference: tuple[Child, int], other: tuple[Child, int], rounds: int) -> str:
    """A row of the table."""
    ratios, answers = [], {}
    for _ in range(rounds):
        answers = {key: child.ask(n) for key, (child, n) in {"reference": reference, "other": other}.items()}
        ratios.append(answers["other"]["seconds"] / answers["reference"]["seconds"])
    bytes_, of = (answers[key]["peak_memory_bytes"] for key in ("other", "reference"))
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return f"| {name} | x {median:.2f} | {low:.2f} to {high:.2f} | {bytes_ / 1e6:,.0f} MB | x {bytes_ / of:.2f} |"


def fused_ratio(options: argparse.Namespace) -> float:
    """Time of the fused update by that of PyTorch's for-each one, median over rounds."""
    config: RunConfig = override(load_recipe("tinystories"), REFERENCE)
    runtime.configure(threads=options.threads, precision="fp32")
    model = GPT(config.model, vocab_size=16_000)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.full_like(parameter, 1e-3)
    both = [torch.optim.AdamW(model.parameters(), **how) for how in ({"fused": True}, {"foreach": True})]
    ratios = []
    for number in range(2 * options.rounds + 1):
        times_s = []
        for optimizer in both:
            started_at = time.perf_counter()
            optimizer.step()
            times_s.append(time.perf_counter() - started_at)
        if number:  # the first makes the state
            ratios.append(times_s[0] / times_s[1])
    return statistics.median(ratios)


def learned(folder: Path, changes: dict[str, Any], options: argparse.Namespace, seed: int) -> float:
    """Validation bits per byte of a small model after some updates on stories."""
    lasting = {"train.max_steps": options.updates, "train.seed": seed, "train.threads": options.threads}
    config = override(load_recipe("stories"), {**SMALL, **lasting, "data.path": str(folder / "data"), **changes})
    if not (folder / "data").exists():
        smalllm.prepare(config)
    out = folder / f"run-{len(list(folder.iterdir()))}"
    result: dict[str, Any] = smalllm.train(config, out=out)
    return float(result["val"]["bits_per_byte"])


if __name__ == "__main__":
    sys.exit(main())
