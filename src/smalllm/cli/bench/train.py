"""`smalllm bench train`: how fast a model trains."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from smalllm.cli.options import DottedConfig
from smalllm.cli.progress import make_progress
from smalllm.reporting.words import count, flops, share, size


@dataclass(frozen=True)
class Options:
    """Measure how fast a model trains, and in how much memory, on drawn token ids."""

    config: DottedConfig
    against: Literal["transformers"] | None = None
    """Hugging Face transformers on the same shape, in its default form and in tuned ones."""
    rounds: int = 3
    """How often each is measured, in turn with the others."""
    one_micro_batch: bool = False
    """Updates of one micro-batch, not of train.tokens_per_step."""
    json: bool = False
    """Print the result as JSON."""


def show(options: Options) -> int:
    """Measure, and print the rates."""
    from smalllm.api.bench_train import bench_train

    found = bench_train(
        options.config,
        against=options.against,
        rounds=options.rounds,
        one_micro_batch=options.one_micro_batch,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    products = " ".join(flops(rate) for rate in found.matmul_flops)
    print(
        f"{found.device}, {found.threads} threads, PyTorch {found.torch}\n"
        f"{count(found.parameters)} parameters, {count(found.flops_per_token)} FLOPs per token, "
        f"dropout {found.dropout}; "
        f"updates of {found.tokens_per_update:,} tokens, {found.micro_batch_size} x {found.context_length} at a time\n"
        f"product of 4096 x 4096 x 4096, round by round: {products}"
    )
    print(f"  {'':<30} {'tokens/s':>10} {'of product':>11} {'MFU':>7} {'peak memory':>12}   smalllm is faster by")
    for name, rate in found.rates.items():
        rounds = " ".join(f"{one:,.0f}" for one in rate.rounds)
        print(
            f"  {name:<30} {rate.tokens_per_second:>10,.0f} {share(rate.matmul_share):>11} {share(rate.mfu):>7} "
            f"{size(rate.peak_memory_bytes):>12}   {rate.ratio:>6.2f} x  ({rounds})"
        )
    return 0
