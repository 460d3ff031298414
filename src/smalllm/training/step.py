"""One update: forward and backward over the micro-batches, clipping, the optimizers' step."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.data.padded import IGNORED
from smalllm.model.cross_entropy import fitting_parts, linear_cross_entropy
from smalllm.model.documents import find_documents
from smalllm.model.gpt import GPT
from smalllm.optim import guards
from smalllm.training.distributed import ALONE, Ranks
from smalllm.training.memory import memory_guard
from smalllm.training.parallel import add_gradients, begin_backward, clip_gradients

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


def only_finite(loss: float, grad_norm: float) -> str:
    """Refuse what is not finite, and nothing else."""
    return guards.refusal(loss, grad_norm, losses=(), grad_norms=(), sigmas=0.0)


def make_loss_function(
    device: str,
    precision: str,
    *,
    compile_it: bool,
    eos_id: int | None = None,
    n_chunks: int = 1,
    is_divided: bool = False,
) -> LossFunction:
    """The function from model, inputs and targets to the mean loss.

    Args:
        device: where the model is.
        precision: of its matrix products.
        compile_it: by `torch.compile`, at the first call.
        eos_id: given, attention stays inside documents, each of which this token opens (see `model/documents.py`).
        n_chunks: in how many parts the logits are made, at least; a CPU takes as many as it is fast with.
        is_divided: whether processes have a part of the weights each; then the logits are made at once.
    """
    dtype, number_bytes = (
        runtime.product_dtype(precision),
        runtime.product_dtype(precision).itemsize if compile_it else 4,
    )

    def mean_loss(model: nn.Module, token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the targets but `IGNORED` ones [nats/token], reduced in FP32."""
        documents = None if eos_id is None else find_documents(token_ids, eos_id=eos_id)
        if is_divided or (device != "cpu" and n_chunks == 1):
            with runtime.autocast(device, precision):
                logits = model(token_ids, documents=documents) if documents else model(token_ids)
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        model = cast(GPT, model)
        with runtime.autocast(device, precision):
            hidden = model.hidden(token_ids, documents=documents).flatten(0, 1)  # [N D]
        head = model.lm_head.weight
        fitting = fitting_parts(len(hidden), *head.shape, number_bytes=number_bytes) if device == "cpu" else 1
        return linear_cross_entropy(
            hidden, head, targets.flatten(),
            vocab_size=model.vocab_size, ignore_index=IGNORED, dtype=dtype, n_parts=max(n_chunks, fitting),
        )  # fmt: skip

    return torch.compile(mean_loss, dynamic=False) if compile_it else mean_loss


@dataclass(frozen=True, slots=True)
class Update:
    """What became of an update.

    Attributes:
        loss: mean over its targets [nats/token].
        grad_norm: of the whole gradient, before clipping.
        n_targets: that the loss is the mean of.
        refused: why the weights were left as they were; empty where they were changed.
    """

    loss: float
    grad_norm: float
    n_targets: int
    refused: str


def train_step(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    loss_function: LossFunction,
    *,
    seed: int,
    step: int,
    clip_norm: float,
    refusal: Callable[[float, float], str] = only_finite,
    loss_scale: float = 1.0,
    ranks: Ranks = ALONE,
) -> Update:
    """Apply one update, unless it is refused; rates were set before.

    Args:
        model: in training mode.
        optimizers: together they own every parameter.
        micro_batches: inputs and targets [B T] each, of equal size. The step's loss is the mean over the targets of all
            of them, `IGNORED` ones left out, however they are divided.
        loss_function: from `make_loss_function`.
        seed: with `step` and the micro-batch's number it decides dropout.
        step: updates before this one.
        clip_norm: largest norm of the gradient; 0: no clipping.
        refusal: from loss and norm to why the update must not be applied, or nothing.
        loss_scale: what the loss is multiplied by for the backward pass, and the gradient divided by after it.
        ranks: the processes that share the step; each comes with micro-batches of its own. What is returned is of all
            of them, and the same on each.

    Raises:
        DeviceMemoryError: memory did not hold a micro-batch; the weights are untouched.
    """
    total, counts = 0.0, torch.stack([(targets != IGNORED).sum() for _, targets in micro_batches]).tolist()
    n_targets = int(ranks.data_sums([sum(counts)])[0])
    with memory_guard(model):
        for number, (token_ids, targets) in enumerate(micro_batches):
            torch.manual_seed(dropout_seed(seed, step, number, ranks.data_rank))
            begin_backward(model, is_last=number + 1 == len(micro_batches))
            loss = loss_function(model, token_ids, targets) / (n_targets / counts[number])
            (loss * loss_scale if loss_scale != 1.0 else loss).backward()
            total += loss.item()
    add_gradients(model, ranks)
    norm = clip_gradients(model, clip_norm, ranks, scale=loss_scale)
    total, norm = ranks.data_sums([total])[0], _worst(ranks.gather([norm]))
    refused = refusal(total, norm)
    if not refused:
        for optimizer in optimizers:
            optimizer.step()
    clear_gradients(optimizers)
    return Update(total, norm, n_targets, refused)


def _worst(norms: list[list[float]]) -> float:
    """Rank 0's norm, unless that of another is not finite."""
    return next((norm for (norm,) in norms if not math.isfinite(norm)), norms[0][0])


def dropout_seed(seed: int, step: int, micro_step: int, rank: int = 0) -> int:
    """A seed for each micro-batch and process of a run, so that no generator state has to be saved [0 to 2^63)."""
    digest = hashlib.sha256(f"{seed} {step} {micro_step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def clear_gradients(optimizers: Sequence[Optimizer]) -> None:
    """Forget all gradients."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
