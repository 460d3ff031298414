"""`smalllm bench WHAT`: measurements against peers, alternating within one call."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from smalllm.cli.options import DottedConfig, parse, split_recipe
from smalllm.cli.progress import make_progress
from smalllm.config import TokenizerConfig
from smalllm.errors import ConfigError
from smalllm.reporting.words import count, flops, share, size


@dataclass(frozen=True)
class TokenizeOptions:
    """Measure how fast text becomes tokens."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Text, JSON Lines or Parquet files; none: the source of Python's standard library."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text_column: str = "text"
    """Name of the text in .jsonl and .parquet files."""
    separator: str | None = None
    """What stands between documents in a text file; absent: a file is one document."""
    megabytes: float = 40.0
    """How much text is used at most [10^6 bytes]."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    workers: int | None = None
    """Processes; absent: one per physical core."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class GenerateOptions:
    """Measure how fast a model writes, greedily."""

    model: Annotated[str, tyro.conf.Positional] = "tinystories"
    """A run, or a recipe, whose shape then has drawn weights."""
    batches: tuple[int, ...] = (1, 16)
    """Sequences at once."""
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32", "bf16", "int8")
    """Of our weights, and of the peers' where they have them."""
    prompt_tokens: int = 32
    """In each prompt."""
    new_tokens: int = 256
    """After each prompt."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    alone: bool = False
    """Do not measure transformers and llama.cpp."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class TrainOptions:
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


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure how fast the questions of a task are scored."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one checkpoint."""
    tasks: str = "hellaswag"
    """NAME, or NAME=PATH for questions in a file or folder, as for `smalllm evaluate`; one task."""
    against: Literal["lm-eval"] | None = None
    """lm-evaluation-harness with its Hugging Face backend, on the run's export."""
    batches: tuple[str, ...] = ("1", "8", "auto")
    """Of lm-evaluation-harness, in requests; each is measured, and auto is the largest that memory holds."""
    examples: int = 200
    """So many questions, spread evenly over the task; 0: all."""
    rounds: int = 3
    """How often each way is measured, in turn with the others."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products, on both sides."""
    json: bool = False
    """Print the result as JSON."""


OPTIONS = {"tokenize": TokenizeOptions, "train": TrainOptions, "evaluate": EvaluateOptions, "generate": GenerateOptions}
WHAT = {
    "tokenize": "text to token ids: the library itself, smalllm's ways, and prepare whole",
    "train": "RECIPE: updates of a model, and of transformers' on the same shape",
    "evaluate": "RUN: questions of a task, and lm-evaluation-harness on the same weights",
    "generate": "prompts to tokens: smalllm, transformers and, for a run, llama.cpp on the same weights",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if arguments and arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {text}" for name, text in WHAT.items()]
        print("\n".join(["usage: smalllm bench WHAT [OPTIONS]", "", "what is measured:", *lines]))
        print("\nThe options: smalllm bench WHAT --help")
        return 0
    what = arguments[0] if arguments else "nothing"
    if what not in WHAT:
        raise ConfigError(f"smalllm bench {what}: say what to measure: {', '.join(WHAT)}")
    if what == "train":
        config, rest, name = split_recipe(arguments[1:], command="bench train")
        return _train(parse(TrainOptions, rest, command=f"bench train {name}", config=config))
    if what == "evaluate":
        return _evaluate(parse(EvaluateOptions, arguments[1:], command="bench evaluate"))
    if what == "generate":
        return _generate(parse(GenerateOptions, arguments[1:], command="bench generate"))
    return _tokenize(parse(TokenizeOptions, arguments[1:], command=f"bench {what}"))


def _tokenize(options: TokenizeOptions) -> int:
    from smalllm.api.bench_tokenize import bench_tokenize

    found = bench_tokenize(
        options.files,
        tokenizer=options.tokenizer,
        text_column=options.text_column,
        separator=options.separator,
        megabytes=options.megabytes,
        rounds=options.rounds,
        n_workers=options.workers,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    size = f"{found.documents:,} documents, {found.text_bytes / 1e6:,.1f} MB of text"
    print(f"{found.tokenizer} tokenizer, {size}, {options.rounds} rounds; ratios to the first, round by round")
    for way, rate in found.rates.items():
        rounds = " ".join(f"{one:.1f}" for one in rate.rounds)
        print(f"  {way:<24} {rate.mb_per_second:>8.1f} MB/s  {rate.ratio:>6.2f} x  ({rounds})")
    return 0


def _generate(options: GenerateOptions) -> int:
    from smalllm.api.bench_generate import bench_generate

    found = bench_generate(
        options.model,
        batches=options.batches,
        precisions=options.precisions,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        rounds=options.rounds,
        peers=not options.alone,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"{found.model}, {found.parameters / 1e6:.3g}M parameters, {found.device}, {found.threads} threads; "
        f"{found.prompt_tokens} prompt and {found.new_tokens} new tokens, {options.rounds} rounds"
    )
    print("  batch  way                    prompt tokens/s   tokens/s  to transformers  (rounds)")
    for rate in found.rates:
        rounds = " ".join(f"{one:,.0f}" for one in rate.rounds)
        ratio = "" if rate.ratio is None else f"{rate.ratio:.2f} x"
        speeds = f"{rate.prompt_tokens_per_second:>15,.0f}  {rate.tokens_per_second:>9,.0f}"
        print(f"  {rate.batch:>5}  {rate.way:<22} {speeds}  {ratio:>15}  ({rounds})")
    return 0


def _evaluate(options: EvaluateOptions) -> int:
    from smalllm.api.bench_evaluate import bench_evaluate

    found = bench_evaluate(
        options.run,
        options.tasks,
        against=options.against,
        batches=options.batches,
        examples=options.examples,
        rounds=options.rounds,
        precision=options.precision,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"{found.run}, {count(found.parameters)} parameters, {found.device}, {found.threads} threads, "
        f"PyTorch {found.torch}\n"
        f"{found.task}: {found.questions:,} questions, {found.precision}, {options.rounds} rounds"
    )
    print(f"  {'':<24} {'questions/s':>11}   smalllm is faster by")
    for way, rate in found.rates.items():
        rounds = " ".join(f"{one:,.1f}" for one in rate.rounds)
        print(f"  {way:<24} {rate.questions_per_second:>11,.1f}   {rate.ratio:>6.2f} x  ({rounds})")
    if found.ratio is not None:
        largest = max(rate.largest_difference for rate in found.rates.values())
        print(f"  {found.ratio:.2f} x the fastest; log-probabilities differ by at most {largest:.1e} nats")
    return 0


def _train(options: TrainOptions) -> int:
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
