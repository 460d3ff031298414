"""How fast a model trains here, and in how much memory: smalllm, and Hugging Face transformers on the same shape.

Each contestant is a process of its own (`trial.py`), so that its peak memory is its own. They take turns,
round by round, one at work at a time, so that a machine that is busy with other things slows all of them; their
ratios, and the shares of a matrix product's rate measured in the same round, say more than their rates.
"""

import contextlib
import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from smalllm import runtime
from smalllm.api.here import configure_here
from smalllm.api.trial import Contestant, started
from smalllm.api.trial_child import OURS, THEIRS, hf_dropout
from smalllm.config import Precision, RunConfig
from smalllm.errors import ConfigError
from smalllm.interop.families import family_of
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.protocols import Progress, Silent

Peer = Literal["transformers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRate:
    """What one contestant did.

    Attributes:
        tokens_per_second: median over the rounds.
        ratio: how many times as fast smalllm was in the same round, median over the rounds.
        matmul_share: of the rate of a 4096 x 4096 x 4096 product in the same round, median.
        mfu: of the device's peak: the data sheet's of a known GPU, else the best product's rate of all rounds.
        peak_memory_bytes: of its process, or of its tensors on a GPU.
        rounds: its `tokens_per_second` in each round.
    """

    tokens_per_second: float
    ratio: float
    matmul_share: float
    mfu: float
    peak_memory_bytes: int
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBench:
    """What was measured on.

    Attributes:
        device: the processor or GPU.
        torch: its version.
        threads: of the CPU.
        parameters: of the model.
        flops_per_token: forward and backward.
        context_length: [tokens].
        micro_batch_size: sequences per forward pass.
        tokens_per_update: in each measured update.
        dropout: of all contestants.
        matmul_flops: rate of the product in each round, in BF16 where the device has it, else FP32 [FLOP/s].
        rates: by the contestant's name; smalllm's is the first.
    """

    device: str
    torch: str
    threads: int
    parameters: int
    flops_per_token: int
    context_length: int
    micro_batch_size: int
    tokens_per_update: int
    dropout: float
    matmul_flops: tuple[float, ...]
    rates: dict[str, TrainRate]


def bench_train(
    config: RunConfig,
    *,
    against: Peer | None = None,
    rounds: int = 3,
    one_micro_batch: bool = False,
    progress: Progress | None = None,
) -> TrainBench:
    """Measure updates of a model of this shape, on drawn token ids.

    Args:
        config: shape, batch, precision and compilation are as a run of it would have them.
        against: "transformers": the class that holds this shape, in FP32 and not compiled, as `Trainer` does by
            default, then in our precision, then compiled too.
        rounds: how often each contestant makes an update, after two that are not counted.
        one_micro_batch: an update of one micro-batch, not of `tokens_per_step`.
        progress: told of each round.

    Raises:
        ConfigError: the configuration has problems, `rounds` is not positive, or transformers is not installed.
        InteropError: no class of transformers holds this shape.
        RunError: a contestant failed.
    """
    progress = progress or Silent()
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: must be 1 or more")
    config = _comparable(config, against, progress)
    here = configure_here(config)
    config, train = here.config, here.config.train
    assert isinstance(train.micro_batch_size, int)
    micro_tokens = train.micro_batch_size * config.model.context_length
    n_micro = 1 if one_micro_batch else train.tokens_per_step // micro_tokens
    rows = _measure(config, here.vocab_size, n_micro, _contestants(config, against), rounds, progress)
    flops = flops_per_token(config.model, vocab_size=here.vocab_size)
    facts = runtime.environment(train.device)
    return TrainBench(
        device=facts["device"],
        torch=facts["torch"],
        threads=train.threads or 1,
        parameters=count_parameters(config.model, vocab_size=here.vocab_size).total,
        flops_per_token=flops,
        context_length=config.model.context_length,
        micro_batch_size=train.micro_batch_size,
        tokens_per_update=n_micro * micro_tokens,
        dropout=config.model.dropout,
        matmul_flops=tuple(row["matmul_flops"] for row in rows),
        rates=_rates(rows, n_micro * micro_tokens, flops, _peak(train.device, rows)),
    )


def _comparable(config: RunConfig, against: Peer | None, progress: Progress) -> RunConfig:
    """The configuration without what the other library cannot do."""
    if against is None:
        return config
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("transformers is not installed: pip install 'smalllm[hf]'")
    family = family_of(config.model)
    if config.model.dropout and not hf_dropout(family.name, config.model.dropout):
        progress.say(f"{family.hf_class} has no dropout where our model has it: measured with model.dropout = 0")
        return replace(config, model=replace(config.model, dropout=0.0))
    return config


def _contestants(config: RunConfig, against: Peer | None) -> list[Contestant]:
    precision, compiled = config.train.precision, bool(config.train.compile)
    found = [Contestant(library=OURS, precision=precision, compile=compiled)]
    if against is not None:
        default: tuple[Precision, bool] = ("fp32", False)
        forms = dict.fromkeys([default, (precision, False), (precision, compiled)])
        found += [Contestant(library=THEIRS, precision=p, compile=c) for p, c in forms]
    return found


def _measure(
    config: RunConfig,
    vocab_size: int,
    n_micro: int,
    contestants: Sequence[Contestant],
    rounds: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A row per round: the product's rate, and by contestant its answer."""
    rows = []
    device = config.train.device
    precision = "bf16" if runtime.has_bf16(device) else "fp32"
    with contextlib.ExitStack() as stack:
        children = {}
        for contestant in contestants:
            progress.say(f"preparing {contestant.name}")
            children[contestant.name] = stack.enter_context(started(config, vocab_size, n_micro, contestant))
        for number in range(1, rounds + 1):
            row: dict[str, Any] = {"matmul_flops": runtime.measure_matmul(device, precision)}
            for name, child in children.items():
                row[name] = child.ask(n_micro)
                progress.say(f"round {number} of {rounds}: {name}, {row[name]['seconds']:.3g} s")
            rows.append(row)
    return rows


def _peak(device: str, rows: Sequence[dict[str, Any]]) -> float:
    best = max(row["matmul_flops"] for row in rows)
    return runtime.peak_flops(device) if device == "cuda" else float(best)


def _rates(rows: Sequence[dict[str, Any]], n_tokens: int, flops: int, peak_flops: float) -> dict[str, TrainRate]:
    names = [name for name in rows[0] if name != "matmul_flops"]
    found = {}
    for name in names:
        speeds = [n_tokens / row[name]["seconds"] for row in rows]
        ratios = [row[name]["seconds"] / row[names[0]]["seconds"] for row in rows]
        shares = [flops * speed / row["matmul_flops"] for speed, row in zip(speeds, rows, strict=True)]
        found[name] = TrainRate(
            tokens_per_second=statistics.median(speeds),
            ratio=statistics.median(ratios),
            matmul_share=statistics.median(shares),
            mfu=flops * statistics.median(speeds) / peak_flops,
            peak_memory_bytes=rows[-1][name]["peak_memory_bytes"],
            rounds=tuple(speeds),
        )
    return found
