"""The micro-batches of each step, from shards or from a stream, for this process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalllm import runtime
from smalllm.api.stream import open_batches
from smalllm.config import RunConfig
from smalllm.data.batches import micro_batch_ids
from smalllm.data.feed import FeedBatches
from smalllm.data.manifest import Manifest
from smalllm.data.windows import Windows
from smalllm.protocols import Progress, Tokenizer
from smalllm.recipes.resolve import micro_batch_size
from smalllm.training.distributed import Ranks

_MOST_ENCODERS = 4  # threads that encode a stream; each is several times as fast as a small model trains

Batches = Callable[[int], Sequence[tuple[Tensor, Tensor]]]
"""Cursor -> the micro-batches of this process in the step that starts there, on the device."""


def open_feed(
    config: RunConfig,
    manifest: Manifest,
    tokenizer: Tokenizer,
    ranks: Ranks,
    *,
    kept: dict[str, Any] | None,
    cursor: int,
    progress: Progress,
) -> FeedBatches | None:
    """The stream from where the run stands; None where the data are shards."""
    if config.data.mode == "shards":
        return None
    return open_batches(
        config,
        manifest,
        tokenizer,
        n_workers=config.data.workers or max(1, min(_MOST_ENCODERS, runtime.n_physical_cores() // ranks.n_local)),
        kept=kept,
        cursor=cursor,
        notice=progress.say,
        rank=ranks.data_rank,
        n_ranks=ranks.n_data,
    )


def make_batches(config: RunConfig, windows: Windows, feed: FeedBatches | None, ranks: Ranks) -> Batches:
    """The windows of shards, or of the stream, cut into micro-batches."""
    size = micro_batch_size(config)

    def on_device(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        moved = (torch.from_numpy(part).to(config.train.device) for part in (inputs, targets))
        first, second = (part.contiguous() for part in moved)
        return first, second

    if feed is not None:
        n_micro_steps = grad_accum_steps(config, ranks)
        return lambda cursor: [
            on_device(rows[:, :-1], rows[:, 1:]) for rows in np.split(feed.rows(cursor), n_micro_steps)
        ]

    def batches(cursor: int) -> Sequence[tuple[Tensor, Tensor]]:
        micro_batches = []
        for micro_step in range(grad_accum_steps(config, ranks)):
            ids = micro_batch_ids(
                config.train.seed,
                cursor,
                rank=ranks.data_rank,
                n_ranks=ranks.n_data,
                micro_batch_size=size,
                micro_step=micro_step,
                n_windows=windows.n,
            )
            micro_batches.append(on_device(*windows.read(ids)))
        return micro_batches

    return batches


def grad_accum_steps(config: RunConfig, ranks: Ranks) -> int:
    """Forward passes of each process per update."""
    windows_at_once = micro_batch_size(config) * ranks.n_data
    return config.train.tokens_per_step // (config.model.context_length * windows_at_once)
