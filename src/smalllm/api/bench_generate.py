"""How fast a model writes here: smalllm in each precision, Hugging Face's `generate` and llama.cpp on the same weights.

All continue the same drawn prompts greedily and take turns, round by round, so that a machine that is busy with other
things slows all of them; their ratios, taken within a round, say more than their rates.
"""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from smalllm import runtime
from smalllm.config import ModelConfig
from smalllm.errors import ConfigError
from smalllm.generation.decoder import Decoder
from smalllm.generation.readers import why_not_compiled
from smalllm.generation.sampling import SamplingConfig
from smalllm.interop.gguf_file import write_gguf
from smalllm.interop.hf_folder import TORCH_DTYPES, write_hf_model
from smalllm.interop.llama_cpp_speed import LlamaCppSpeed
from smalllm.model.count import count_parameters
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.protocols import Progress, Silent
from smalllm.recipes import load_recipe, recipe_names
from smalllm.run import load_run
from smalllm.tokenizers.text_tokenizer import TextTokenizer

Continue = Callable[[list[list[int]], int], None]
"""Writes so many tokens after each of the prompts."""

PRECISIONS = ("fp32", "bf16", "int8")
_VOCAB_SIZES = {"gpt2": 50_257, "bytes": 257}


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRate:
    """What one way of generating did with one batch size.

    Attributes:
        way: its name.
        batch: sequences at once.
        prompt_tokens_per_second: of all sequences, until the first new tokens; median over the rounds.
        tokens_per_second: of all sequences, of the tokens after the first ones; median over the rounds.
        ratio: of `tokens_per_second` to that of transformers with the same batch and precision in the same round,
            median over the rounds; of those that have no such peer, to the faster precision of transformers. None
            where transformers was not measured.
        rounds: its `tokens_per_second` in each round.
    """

    way: str
    batch: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    ratio: float | None
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateBench:
    """What was measured on.

    Attributes:
        model: the run or recipe.
        parameters: of the model.
        device: the processor or GPU.
        torch: its version.
        threads: of the CPU.
        prompt_tokens: in each prompt.
        new_tokens: after each.
        rates: by batch size, then way.
    """

    model: str
    parameters: int
    device: str
    torch: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    rates: tuple[GenerateRate, ...]


def bench_generate(
    model: str = "tinystories",
    *,
    batches: Sequence[int] = (1, 16),
    precisions: Sequence[str] = PRECISIONS,
    prompt_tokens: int = 32,
    new_tokens: int = 256,
    rounds: int = 3,
    peers: bool = True,
    progress: Progress | None = None,
) -> GenerateBench:
    """Measure every way to continue a prompt.

    Args:
        model: a run, or a recipe, whose shape then has drawn weights.
        batches: sequences at once.
        precisions: of our weights; transformers is measured in those of them that it has. Of these three, int8 is
            left out where no decoder has it.
        prompt_tokens: in each prompt.
        new_tokens: after each, at least 2.
        rounds: how often each way is measured.
        peers: measure transformers and, for a run, llama.cpp too, where they are installed.
        progress: told of each round.

    Raises:
        ConfigError: a number is not positive, the tokens are more than the context, or a precision is not to be had.
        CheckpointError: `model` is neither a recipe nor a usable run.
        InteropError: the model has no place in the peers.
    """
    progress = progress or Silent()
    if min(*batches, prompt_tokens, new_tokens - 1, rounds) < 1:
        raise ConfigError("--batches, --prompt-tokens and --rounds must be at least 1, --new-tokens at least 2")
    gpt, tokenizer, device = _load(model)
    if prompt_tokens + new_tokens > gpt.config.context_length:
        raise ConfigError(
            f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens}: together more than the context, "
            f"{gpt.config.context_length}; lower one"
        )
    if tuple(precisions) == PRECISIONS and (why := why_not_compiled(device)):
        progress.say(f"int8 is left out: only the compiled decoder has it, and {why}")
        precisions = PRECISIONS[:2]
    rates = []
    for batch in batches:
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(gpt.vocab_size, (batch, prompt_tokens), generator=generator).tolist()
        with _ways(gpt, tokenizer, device, batch, precisions, prompt_tokens + new_tokens, peers, progress) as ways:
            rates += _measure(ways, prompts, new_tokens, rounds, progress)
    return GenerateBench(
        model=model,
        parameters=count_parameters(gpt.config, vocab_size=gpt.vocab_size).total,
        device=torch.cuda.get_device_name() if device == "cuda" else runtime.cpu_name(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rates=tuple(rates),
    )


def _load(model: str) -> tuple[GPT, TextTokenizer | None, str]:
    if model not in recipe_names() and not model.endswith(".toml"):
        run = load_run(model)
        return run.model, run.tokenizer if isinstance(run.tokenizer, TextTokenizer) else None, run.device
    config, device = load_recipe(model), runtime.pick_device("auto")
    vocab_size = config.tokenizer.vocab_size or _VOCAB_SIZES.get(config.tokenizer.kind, 16_000)
    return _drawn(config.model, vocab_size).to(device), None, device


def _drawn(config: ModelConfig, vocab_size: int) -> GPT:
    gpt = GPT(config, vocab_size=vocab_size)
    init_weights(gpt, seed=0)
    return gpt.eval()


def _measure(
    ways: dict[str, Continue], prompts: list[list[int]], new_tokens: int, rounds: int, progress: Progress
) -> list[GenerateRate]:
    n_prompt, n_new = sum(map(len, prompts)), len(prompts) * (new_tokens - 1)
    firsts: dict[str, list[float]] = {way: [] for way in ways}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for go in ways.values():
        go(prompts, 3)  # compiles, allocates
    for number in range(1, rounds + 1):
        for way, go in ways.items():
            first_s, whole_s = _seconds(go, prompts, 1), _seconds(go, prompts, new_tokens)
            firsts[way].append(n_prompt / first_s)
            speeds[way].append(n_new / max(whole_s - first_s, 1e-9))
            progress.say(f"round {number} of {rounds}: batch {len(prompts)}, {way}, {speeds[way][-1]:,.0f} tokens/s")
    return [
        GenerateRate(
            way=way,
            batch=len(prompts),
            prompt_tokens_per_second=statistics.median(firsts[way]),
            tokens_per_second=statistics.median(speeds[way]),
            ratio=_ratio(way, speeds),
            rounds=tuple(speeds[way]),
        )
        for way in ways
    ]


def _ratio(way: str, speeds: dict[str, list[float]]) -> float | None:
    theirs = [name for name in speeds if name.startswith("transformers")]
    same = [name for name in theirs if name.split(", ")[1] == way.split(", ")[1]] or theirs
    if not same:
        return None
    best = [max(row) for row in zip(*(speeds[name] for name in same), strict=True)]
    return statistics.median(one / other for one, other in zip(speeds[way], best, strict=True))


def _seconds(go: Continue, prompts: list[list[int]], n_new: int) -> float:
    started_at = time.perf_counter()
    go(prompts, n_new)
    return time.perf_counter() - started_at


@contextlib.contextmanager
def _ways(
    gpt: GPT,
    tokenizer: TextTokenizer | None,
    device: str,
    batch: int,
    precisions: Sequence[str],
    n_positions: int,
    peers: bool,
    progress: Progress,
) -> Iterator[dict[str, Continue]]:
    """What is measured, by name: "library, precision"."""
    ways = {f"smalllm, {precision}": _ours(gpt, device, batch, precision) for precision in precisions}
    with TemporaryDirectory(prefix="smalllm-bench-") as name, contextlib.ExitStack() as stack:
        if peers and importlib.util.find_spec("transformers") is not None:
            _export(gpt, Path(name))
            for precision in precisions:
                if precision in ("fp32", "bf16"):
                    ways[f"transformers, {precision}"] = _theirs(Path(name), gpt, device, precision)
        elif peers:
            progress.say("transformers is not installed: pip install 'smalllm[hf]'")
        if peers and tokenizer is not None and device == "cpu" and importlib.util.find_spec("llama_cpp") is not None:
            for precision, dtype in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "q8_0")):
                if precision in precisions:
                    path = Path(name, f"{dtype}.gguf")
                    parameters = dict(gpt.named_parameters())
                    write_gguf(path, gpt.config, parameters, tokenizer, dtype=dtype, name="bench", notice=progress.say)
                    speed = LlamaCppSpeed(path, n_sequences=batch, n_positions=n_positions)
                    ways[f"llama.cpp, {precision}"] = stack.enter_context(speed).go
        yield ways


def _ours(gpt: GPT, device: str, batch: int, precision: str) -> Continue:
    decoder = Decoder(gpt, n_slots=batch, eos_id=-1, device=device, precision=precision)

    def go(prompts: list[list[int]], n_new: int) -> None:
        for prompt in prompts:
            decoder.add(prompt, SamplingConfig(temperature=0.0, max_tokens=n_new))
        while decoder.active:
            decoder.step()

    return go


def _export(gpt: GPT, folder: Path) -> None:
    parameters = {name: parameter.detach().cpu() for name, parameter in gpt.named_parameters()}
    write_hf_model(folder, gpt.config, parameters, vocab_size=gpt.vocab_size, eos_id=0)


def _theirs(folder: Path, gpt: GPT, device: str, precision: str) -> Continue:
    import transformers

    dtype = TORCH_DTYPES[{"fp32": "f32", "bf16": "bf16"}[precision]]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    if bars:
        transformers.utils.logging.enable_progress_bar()
    theirs.generation_config.eos_token_id = None  # so that it writes all tokens
    theirs.generation_config.pad_token_id = 0

    def go(prompts: list[list[int]], n_new: int) -> None:
        ids = torch.tensor(prompts, device=device)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            made = theirs.generate(ids, attention_mask=mask, max_new_tokens=n_new, do_sample=False)
        assert made.shape[1] == ids.shape[1] + n_new
        runtime.synchronize(device)

    return go
