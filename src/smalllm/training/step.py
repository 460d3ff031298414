"""One update: forward and backward over the micro-batches, clipping, the optimizers' step."""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from smalllm import runtime
from smalllm.data.padded import IGNORED
from smalllm.errors import NonFiniteError
from smalllm.model.documents import find_documents
from smalllm.training.memory import memory_guard

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


def make_loss_function(device: str, precision: str, *, compile_it: bool, eos_id: int | None = None) -> LossFunction:
    """The function from model, inputs and targets to the mean loss.

    Args:
        device: where the model is.
        precision: of its matrix products.
        compile_it: by `torch.compile`, at the first call.
        eos_id: given, attention stays inside documents, each of which this token opens (see `model/documents.py`).
    """

    def mean_loss(model: nn.Module, token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the targets but `IGNORED` ones [nats/token], reduced in FP32."""
        options = {} if eos_id is None else {"documents": find_documents(token_ids, eos_id=eos_id)}
        with runtime.autocast(device, precision):
            logits = model(token_ids, **options)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)

    return torch.compile(mean_loss, dynamic=False) if compile_it else mean_loss


def train_step(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    loss_function: LossFunction,
    *,
    seed: int,
    step: int,
    clip_norm: float,
) -> tuple[float, float, int]:
    """Apply one update; rates were set before.

    Args:
        model: in training mode.
        optimizers: together they own every parameter.
        micro_batches: inputs and targets [B T] each, of equal size. The step's loss is the mean over the targets of all
            of them, `IGNORED` ones left out, however they are divided.
        loss_function: from `make_loss_function`.
        seed: with `step` and the micro-batch's number it decides dropout.
        step: updates applied before this one.
        clip_norm: largest norm of the gradient; 0: no clipping.

    Returns:
        Loss [nats/token], norm of the gradient before clipping, and the number of targets.

    Raises:
        NonFiniteError: loss or gradient is not finite; the weights are untouched.
        DeviceMemoryError: memory did not hold a micro-batch; the weights are untouched.
    """
    total, counts = 0.0, torch.stack([(targets != IGNORED).sum() for _, targets in micro_batches]).tolist()
    with memory_guard(model):
        for number, (token_ids, targets) in enumerate(micro_batches):
            torch.manual_seed(dropout_seed(seed, step, number))
            loss = loss_function(model, token_ids, targets) / (sum(counts) / counts[number])
            loss.backward()
            total += loss.item()
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf, foreach=True))
    if not math.isfinite(total) or not math.isfinite(norm):
        clear_gradients(optimizers)
        raise NonFiniteError(
            f"step {step}: the loss is {total} and the gradient's norm {norm}; the weights of step {step} are "
            "untouched; lower --optim.lr (or --optim.muon_lr), keep --optim.clip_norm at 1, "
            "or use --train.precision fp32",
            step=step,
        )
    for optimizer in optimizers:
        optimizer.step()
    clear_gradients(optimizers)
    return total, norm, sum(counts)


def dropout_seed(seed: int, step: int, micro_step: int, rank: int = 0) -> int:
    """A seed for each micro-batch and process of a run, so that no generator state has to be saved [0 to 2^63)."""
    digest = hashlib.sha256(f"{seed} {step} {micro_step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def clear_gradients(optimizers: Sequence[Optimizer]) -> None:
    """Forget all gradients."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
