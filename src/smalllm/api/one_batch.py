"""A run on one batch (`train.overfit_one_batch`): what it can reach, and whoever says whether it does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smalllm.api.batches import make_batches
from smalllm.api.sitting import Sitting
from smalllm.protocols import Progress
from smalllm.rundir import read_jsonl
from smalllm.training.distributed import Ranks
from smalllm.training.overfit import Watch, lowest_loss


def watch_one_batch(sitting: Sitting, progress: Progress) -> Watch | None:
    """Look at the batch that the run repeats, and at the rows that it has already; None in ranks other than 0.

    All ranks must ask at the same time: each has a part of the batch.
    """
    config = sitting.config
    own = make_batches(sitting.config, sitting.windows, sitting.feed, sitting.ranks)(sitting.state.cursor)
    batch = gathered(own, sitting.ranks)
    if not sitting.ranks.is_first:
        return None
    lowest = lowest_loss([batch], eos_id=sitting.tokenizer.eos_id if config.data.document_mask else None)
    progress.say(
        f"train.overfit_one_batch: every update trains on the same {len(batch[0]):,} windows, which allow a loss of "
        f"{lowest:.3f} nats per token"
    )
    losses = [row["loss"] for row in read_jsonl(sitting.run.metrics) if row["split"] == "train"]
    return Watch(
        lowest=lowest,
        max_steps=config.train.max_steps or 0,
        warmup_steps=config.optim.warmup_steps or 0,
        dropout=config.model.dropout,
        say=progress.say,
        first=losses[0] if losses else None,
    )


def gathered(micro_batches: Sequence[tuple[Tensor, Tensor]], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B T] of all ranks' micro-batches of a step, on the CPU; tensor ranks see the same ones."""
    inputs, targets = (torch.cat(parts) for parts in zip(*micro_batches, strict=True))
    inputs, targets = (
        torch.tensor(ranks.gather(part.flatten().tolist())[:: ranks.n_tensor], dtype=torch.int64).view(
            -1, part.shape[1]
        )
        for part in (inputs, targets)
    )
    return inputs, targets
