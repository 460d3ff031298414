"""What is wrong with a configuration: every problem at once, each with field, value and what is allowed."""

import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from smalllm.config import (
    TASK_NAMES,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackConfig,
    TrainConfig,
    as_dict,
)  # fmt: skip
from smalllm.errors import ConfigError
from smalllm.recipes.resolve import memory_bytes, resolve_shape

_POSITIVE = "at least 1"
_NOT_NEGATIVE = "0 or more"
_SHARE = "0 or more and less than 1"

# field -> (allowed in words, test). Absent values (None) are never wrong here.
_RANGES: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(
        [
            "model.n_layers", "model.n_heads", "model.n_kv_heads", "model.d_model", "model.d_head", "model.d_ff",
            "model.context_length", "data.stories", "data.shards", "data.shuffle_buffer", "data.shard_tokens",
            "data.workers", "tokenizer.vocab_size", "train.max_steps", "train.max_tokens", "train.tokens_per_step",
            "train.micro_batch_size", "train.loss_chunks", "train.tensor_parallel", "train.threads",
            "train.keep_checkpoints", "train.log_every", "eval.tokens",
        ],
        (_POSITIVE, lambda v: v >= 1),
    ),
    **dict.fromkeys(
        [
            "optim.lr", "optim.muon_lr", "optim.weight_decay", "optim.clip_norm", "optim.warmup_steps",
            "train.save_every", "train.save_every_s", "train.patience",
            "train.skip_spikes", "train.rewind_after", "train.activation_checkpointing",
            "eval.every", "eval.sample_every", "eval.final_tokens", "eval.tasks_every", "eval.task_examples",
        ],
        (_NOT_NEGATIVE, lambda v: v >= 0),
    ),
    **dict.fromkeys(
        ["model.dropout", "data.val_fraction", "optim.beta1", "optim.beta2", "optim.warmup_fraction"],
        (_SHARE, lambda v: 0 <= v < 1),
    ),
    "train.seed": ("0 or more, below 2^63", lambda v: 0 <= v < 2**63),
    **dict.fromkeys(["optim.min_lr_ratio", "optim.decay_fraction"], ("0 to 1", lambda v: 0 <= v <= 1)),
    **dict.fromkeys(
        ["model.norm_eps", "model.rope_theta", "optim.eps", "train.max_epochs", "train.max_minutes"],
        ("more than 0", lambda v: v > 0),
    ),
}  # fmt: skip


def problems(config: RunConfig) -> list[str]:
    """Every reason why this configuration cannot run; empty when there is none.

    Args:
        config: as written by the user; absent values are fine.

    Returns:
        One sentence per problem: field, value found, what is allowed.
    """
    return [
        *_not_text(config),
        *_out_of_range(config),
        *_model_problems(config.model),
        *_data_problems(config.data),
        *_stream_problems(config.data, config.train),
        *_optim_problems(config.optim),
        *_batch_problems(config.train, config.model),
        *_parallel_problems(config.train, config.model),
        *task_problems(config.eval.tasks, field="eval.tasks"),
        *_track_problems(config.track),
        *_memory_problems(config.train),
    ]


def check(config: RunConfig) -> RunConfig:
    """Return `config` unchanged, or raise.

    Raises:
        ConfigError: with all of `problems(config)`.
    """
    found = problems(config)
    if found:
        raise ConfigError(found)
    return config


def _not_text(config: RunConfig) -> Iterator[str]:
    for section, values in as_dict(config).items():
        for key, value in values.items() if isinstance(values, dict) else ():
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str) and word.encode("utf-8", "replace").decode() != word:
                    yield f"{section}.{key} = {word!r}: is not UTF-8, as a run's config.toml must be; rename the file"


def _out_of_range(config: RunConfig) -> Iterator[str]:
    for name, (allowed, is_right) in _RANGES.items():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        if value not in (None, "auto") and not (_is_finite(value) and is_right(value)):
            yield f"{name} = {value}: must be {allowed}"


def _is_finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be too large to become a float


def _model_problems(model: ModelConfig) -> Iterator[str]:
    heads = model.n_heads
    if model.d_head is not None:
        if model.position == "rope" and model.d_head % 2:
            yield f'model.d_head = {model.d_head}: must be even for position = "rope", which rotates pairs'
    elif heads >= 1 and model.d_model % heads:
        yield f"model.d_model = {model.d_model}: must be a multiple of model.n_heads = {heads}"
    elif heads >= 1 and model.position == "rope" and (model.d_model // heads) % 2:
        yield (
            f"model.d_model = {model.d_model}: d_model / n_heads = {model.d_model // heads} must be even "
            'for position = "rope", which rotates pairs'
        )
    if model.n_kv_heads and heads % model.n_kv_heads:
        yield f"model.n_kv_heads = {model.n_kv_heads}: must divide model.n_heads = {heads}"


def _data_problems(data: DataConfig) -> Iterator[str]:
    if data.source == "url" and not data.url and not data.files:
        yield 'data.url is absent: source = "url" needs it'
    if data.source == "hub" and not data.hub_name and not data.files:
        yield 'data.hub_name is absent: source = "hub" needs it'
    is_hub = data.source == "hub" and not data.files
    if is_hub and data.hub_files and set(data.hub_files) <= set(data.hub_val_files):
        yield f"data.hub_files = {list(data.hub_files)}: all are data.hub_val_files too, so none is left to train on"
    if data.separator == "":
        yield 'data.separator = "": must not be empty; leave it out to keep each file whole'
    if data.mode == "stream" and data.packing == "padded":
        yield 'data.packing = "padded": needs data.mode = "shards", which knows where documents end'
    if data.mode == "stream" and data.dedup:
        yield 'data.dedup = true: needs data.mode = "shards", which reads everything before training'
    if data.document_mask and data.packing == "padded":
        yield 'data.document_mask = true: data.packing = "padded" leaves nothing to mask; give one of them'
    if data.sha256 is not None and (len(data.sha256) != 64 or set(data.sha256) - set("0123456789abcdef")):
        yield f"data.sha256 = {data.sha256!r}: must be 64 lower-case hex digits"


def _stream_problems(data: DataConfig, train: TrainConfig) -> Iterator[str]:
    if data.mode != "stream":
        return
    if data.source not in ("files", "hub") and not data.files:
        yield f'data.mode = "stream": streams files and data sets of the Hub, not source = "{data.source}"'
    if train.max_epochs is not None:
        yield f"train.max_epochs = {train.max_epochs}: the length of a streamed text is not known; use train.max_tokens"


def _optim_problems(optim: OptimConfig) -> Iterator[str]:
    if optim.warmup_steps is not None and optim.warmup_fraction:
        yield (
            f"optim.warmup_steps = {optim.warmup_steps} and optim.warmup_fraction = {optim.warmup_fraction}: "
            "give one of them"
        )


def _batch_problems(train: TrainConfig, model: ModelConfig) -> Iterator[str]:
    context = model.context_length
    if context >= 1 and train.tokens_per_step >= 1 and train.tokens_per_step % context:
        nearest = max(1, (train.tokens_per_step + context // 2) // context) * context
        yield (
            f"train.tokens_per_step = {train.tokens_per_step}: must be a multiple of "
            f"model.context_length = {context}, for example {nearest}"
        )
    elif context >= 1 and _cuts_badly(train.micro_batch_size, train.tokens_per_step // context):
        yield (
            f"train.micro_batch_size = {train.micro_batch_size}: must divide the "
            f"{train.tokens_per_step // context} windows of train.tokens_per_step = {train.tokens_per_step}"
        )


def _parallel_problems(train: TrainConfig, model: ModelConfig) -> Iterator[str]:
    n = train.tensor_parallel
    if train.loss_chunks > 1 and (train.parallel == "fsdp" or n > 1):
        yield f'train.loss_chunks = {train.loss_chunks}: needs the whole model in each process, train.parallel = "ddp"'
    if n < 2:
        return
    d_ff = resolve_shape(model).d_ff if model.n_heads >= 1 else model.d_ff
    for name, value in (("n_heads", model.n_heads), ("n_kv_heads", model.n_kv_heads), ("d_ff", d_ff)):
        if value is not None and value % n:
            yield f"train.tensor_parallel = {n}: must divide model.{name} = {value}, which is shared out in equal parts"


def _track_problems(track: TrackConfig) -> Iterator[str]:
    for key in ("project", "name"):
        value = getattr(track, key)
        if value is not None and not value.strip():
            yield f'track.{key} = "{value}": must not be empty; leave it out for the default'


def _cuts_badly(micro_batch_size: int | str, n_windows: int) -> bool:
    return isinstance(micro_batch_size, int) and micro_batch_size >= 1 and n_windows % micro_batch_size != 0


def _memory_problems(train: TrainConfig) -> Iterator[str]:
    if train.memory is not None:
        try:
            memory_bytes(train.memory)
        except ValueError as error:
            yield f"train.memory = {error}"


def task_problems(tasks: Iterable[str], *, field: str, allowed: tuple[str, ...] = TASK_NAMES) -> Iterator[str]:
    """What is wrong with a list of tasks, each NAME or NAME=PATH.

    Args:
        tasks: as written by the user.
        field: what they are called, for the sentence.
        allowed: the names there are.
    """
    seen = set()
    for task in tasks:
        name, equals, path = task.partition("=")
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            yield f"{field} has {name!r}: must be one of {', '.join(allowed)}{hint}"
        elif name in seen:
            yield f"{field} has {name} twice: one result would hide the other"
        elif equals and not path:
            yield f"{field} has {task!r}: nothing stands after the =; give a file, a folder or a URL"
        seen.add(name)
