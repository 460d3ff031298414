"""The micro-batch that memory holds: chosen before a run by reckoning, and smaller where memory was not enough."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from smalllm import runtime
from smalllm.config import RunConfig, TrainConfig
from smalllm.errors import DeviceMemoryError
from smalllm.planning.memory import predict_memory
from smalllm.protocols import Progress
from smalllm.recipes import save_config
from smalllm.recipes.resolve import memory_bytes, micro_batch_size, smaller_micro_batch
from smalllm.training.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from smalllm.api.sitting import Sitting

_SURE_SHARE = 0.9  # of the memory: predictions are right within 15 %, and a smaller micro-batch is little slower


def fits_here(
    config: RunConfig, *, vocab_size: int, device: str, ranks: Ranks = ALONE
) -> Callable[[TrainConfig], bool]:
    """Whether a run with these values would fit into `train.memory`, else into what the device has free.

    The processes of a machine share what is free there, but for GPUs, which each has for itself.
    """
    limit = runtime.free_memory_bytes(device) // (ranks.n_local if device == "cpu" else 1)
    if config.train.memory is not None:
        limit = min(limit, memory_bytes(config.train.memory))

    def fits(train: TrainConfig) -> bool:
        needed = predict_memory(config.model, config.optim, train, vocab_size=vocab_size, n_data=ranks.n_data)
        return needed.total <= _SURE_SHARE * limit

    return fits


def shrinker(sitting: "Sitting", progress: Progress) -> Callable[[DeviceMemoryError], bool]:
    """What makes a sitting's micro-batches smaller, half as large at most, and stores and tells it.

    It raises a `DeviceMemoryError` that says what to do where one sequence is left, and where several processes train
    together: the others would wait for this one.
    """

    def shrink(error: DeviceMemoryError) -> bool:
        size = micro_batch_size(sitting.config)
        smaller = smaller_micro_batch(sitting.config, n_data_ranks=sitting.ranks.n_data)
        if smaller is None or sitting.ranks.n > 1:
            advice = _advice(sitting.config, smaller)
            raise DeviceMemoryError(f"memory did not hold {_sequences(size)} at a time ({error}); {advice}") from error
        sitting.config = replace(sitting.config, train=replace(sitting.config.train, micro_batch_size=smaller))
        if sitting.run.config.exists():
            save_config(sitting.config, sitting.run.config)
        progress.say(
            f"WARNING: memory did not hold {_sequences(size)} at a time ({error}); going on with {smaller}, which "
            "learns the same"
        )
        return True

    return shrink


def _advice(config: RunConfig, smaller: int | None) -> str:
    """What to type where a micro-batch does not fit and is not made smaller here."""
    if smaller is not None:
        return (
            "several processes do not change it by themselves; the same command goes on with --resume "
            f"--train.micro_batch_size {smaller}, which learns the same"
        )
    if config.train.activation_checkpointing != 1:
        return "the same command with --train.activation_checkpointing 1 needs less, and may resume a run"
    return "choose a smaller model or a shorter context"


def _sequences(n: int) -> str:
    return "1 sequence" if n == 1 else f"{n} sequences"
