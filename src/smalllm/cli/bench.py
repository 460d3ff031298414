"""`smalllm bench WHAT`: measurements against peers, alternating within one call."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
class ServeOptions:
    """Measure the server with many clients at once against one."""

    run: Annotated[str, tyro.conf.Positional]
    """A run directory, or one checkpoint."""
    clients: int = 32
    """That ask at once."""
    seconds: float = 20.0
    """That they go on asking; one alone asks half as long before."""
    prompt_tokens: int = 64
    """In each prompt."""
    new_tokens: int = 64
    """That each request asks for."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Of the weights."""
    json: bool = False
    """Print the result as JSON."""


OPTIONS = {"tokenize": TokenizeOptions, "train": TrainOptions, "generate": GenerateOptions, "serve": ServeOptions}
WHAT = {
    "tokenize": "text to token ids: the library itself, smalllm's ways, and prepare whole",
    "train": "RECIPE: updates of a model, and of transformers' on the same shape",
    "generate": "prompts to tokens: smalllm, transformers and, for a run, llama.cpp on the same weights",
    "serve": "RUN: the server with many clients at once, against one alone",
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
    if what == "generate":
        return _generate(parse(GenerateOptions, arguments[1:], command="bench generate"))
    if what == "serve":
        return _serve(parse(ServeOptions, arguments[1:], command="bench serve"))
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


def _serve(options: ServeOptions) -> int:
    from smalllm.api.bench_serve import bench_serve

    found = bench_serve(
        options.run,
        clients=options.clients,
        seconds=options.seconds,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        precision=options.precision,
        progress=make_progress(),
    )
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    growth = (
        "" if found.memory_growth_bytes is None else f"; the server grew by {found.memory_growth_bytes / 1e6:,.1f} MB"
    )
    print(
        f"{found.run}, {found.precision}; {found.prompt_tokens} prompt and {found.new_tokens} new tokens; "
        f"{found.requests:,} requests, {found.errors} errors{growth}"
    )
    rows = {
        "1 client": (found.alone_tokens_per_second, found.alone_first_token_s),
        f"{found.clients} clients": (found.tokens_per_second, found.first_token_s),
    }
    for name, (rate, (middle, late)) in rows.items():
        first = f"first token after {middle * 1e3:,.1f} ms (99 %: {late * 1e3:,.1f} ms)"
        print(f"  {name:<12} {rate:>9,.0f} tokens/s, {first}")
    print(
        f"  {found.ratio:.2f} x; the slowest client got {share(found.slowest_to_fastest)} of the fastest one's tokens"
    )
    return 0 if not found.errors else 1
