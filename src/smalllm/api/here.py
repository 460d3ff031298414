"""A configuration as it would run on this machine, whether or not its data are prepared."""

from dataclasses import dataclass, replace
from functools import partial

from smalllm import runtime
from smalllm.api.data import data_path
from smalllm.api.fitting import fits_here
from smalllm.config import RunConfig
from smalllm.data.manifest import MANIFEST_NAME, read_manifest
from smalllm.errors import ConfigError
from smalllm.model.count import flops_per_token
from smalllm.problems import check
from smalllm.recipes.resolve import Machine, resolve

_KNOWN_VOCAB_SIZES = {"gpt2": 50_257, "bytes": 257}


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """What a configuration is on this machine.

    Attributes:
        config: resolved: no value is absent but `train.max_steps` where the length cannot be known yet.
        vocab_size: of the prepared data, else of the configured tokenizer.
        train_tokens: of the prepared data; None: they are not prepared.
        data_bytes: of the prepared training shards.
    """

    config: RunConfig
    vocab_size: int
    train_tokens: int | None
    data_bytes: int


def configure_here(config: RunConfig) -> Here:
    """Resolve a configuration for this machine and set the process up for it, as a run would.

    A length in epochs of data that are not prepared stays open.

    Raises:
        ConfigError: the configuration has problems, the device is not there, or nothing says how many ids the
            tokenizer will have.
        DataError: the data's manifest is damaged.
    """
    check(config)
    vocab_size, train_tokens, data_bytes = _data_facts(config)
    device = runtime.pick_device(config.train.device)
    precision = runtime.pick_precision(config.train.precision, device)
    can_compile = runtime.missing_compiler(device) is None
    if not can_compile:
        config = replace(config, train=replace(config.train, compile=False))
    threads = config.train.threads or runtime.n_physical_cores()
    runtime.configure(threads=threads, precision=precision)
    machine = Machine(
        device=device,
        precision=precision,
        can_compile=can_compile,
        threads=threads,
        peak_flops=runtime.peak_flops(device),
    )
    flops = flops_per_token(config.model, vocab_size=vocab_size)
    fits = fits_here(config, vocab_size=vocab_size, device=device)
    finish = partial(resolve, machine=machine, vocab_size=vocab_size, flops_per_token=flops, fits=fits)
    train = config.train
    is_open = train.max_steps is None and train.max_tokens is None and train.max_minutes is None
    if is_open and (train_tokens is None or train.max_epochs is None):
        assumed = replace(config, train=replace(train, max_epochs=None, max_minutes=1e9))
        resolved = finish(assumed, train_tokens=1)[0]
        resolved = replace(resolved, train=replace(resolved.train, max_epochs=train.max_epochs, max_minutes=None))
    else:
        if train_tokens is None:
            config = replace(config, train=replace(train, max_epochs=None))
        resolved = finish(config, train_tokens=train_tokens or 1)[0]
    return Here(config=resolved, vocab_size=vocab_size, train_tokens=train_tokens, data_bytes=data_bytes)


def _data_facts(config: RunConfig) -> tuple[int, int | None, int]:
    """Vocabulary, training tokens and bytes of the training shards, of the manifest where there is one."""
    data = data_path(config)
    if (data / MANIFEST_NAME).exists():
        manifest = read_manifest(data)
        tokens = manifest.splits["train"].tokens
        is_stream = config.data.mode == "stream"
        n_bytes = 0 if is_stream else tokens * int(manifest.dtype.removeprefix("uint")) // 8
        return manifest.tokenizer.vocab_size, None if is_stream else tokens, n_bytes
    known = _KNOWN_VOCAB_SIZES.get(config.tokenizer.kind, config.tokenizer.vocab_size)
    if known is None:
        raise ConfigError(
            f"tokenizer.vocab_size is absent and {data} is not prepared: nothing says how many token ids there will "
            "be; give --tokenizer.vocab_size, or prepare the data first"
        )
    return known, None, 0
