"""A run on one batch (`train.overfit_one_batch`): what it can reach, and whoever says whether it does."""

from smalllm.api.batches import make_batches
from smalllm.api.sitting import Sitting
from smalllm.protocols import Progress
from smalllm.rundir import read_jsonl
from smalllm.training.overfit import Watch, lowest_loss


def watch_one_batch(sitting: Sitting, progress: Progress) -> Watch:
    """Look at the batch that the run repeats, and at the rows that it has already."""
    config = sitting.config
    micro_batches = make_batches(sitting.config, sitting.windows, sitting.feed, sitting.ranks)(sitting.state.cursor)
    eos_id = sitting.tokenizer.eos_id if config.data.document_mask else None
    lowest = lowest_loss(micro_batches, eos_id=eos_id)
    n_windows = sum(len(inputs) for inputs, _ in micro_batches)
    progress.say(
        f"train.overfit_one_batch: every update trains on the same {n_windows:,} windows, which allow a loss of "
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
