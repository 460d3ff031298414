"""What a sitting trains, from its configuration: the model, its optimizers, its loss."""

from torch.optim import Optimizer

from smalllm.api.origin import copy_weights
from smalllm.checkpoint import Checkpoint, TrainState, copy_parameters
from smalllm.config import RunConfig
from smalllm.model.attention_kernel import find_attention_kernel
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors
from smalllm.protocols import Tokenizer
from smalllm.recipes.resolve import resolve_shape
from smalllm.run import Run
from smalllm.training.distributed import Ranks
from smalllm.training.parallel import divide_model, is_divided
from smalllm.training.step import LossFunction, make_loss_function


def build_model(
    config: RunConfig, tokenizer: Tokenizer, loaded: Checkpoint | None, origin: Run | None, ranks: Ranks
) -> tuple[GPT, list[Optimizer], TrainState]:
    """The model on its device, divided among the ranks, with its optimizers and where the run stands.

    Args:
        config: resolved.
        tokenizer: of the run.
        loaded: the checkpoint that the run goes on from; None for a run that starts.
        origin: whose weights a run that starts takes over; None: they are drawn.
        ranks: arranged.
    """
    model = GPT(config.model, vocab_size=tokenizer.vocab_size)
    if loaded is not None:
        copy_parameters(model, loaded.model, where=str(loaded.path))
    elif origin is not None:
        copy_weights(model, origin)
    else:
        init_weights(model, seed=config.train.seed)
    model.to(config.train.device)
    model.recompute_every = config.train.activation_checkpointing
    divide_model(model, ranks, parallel=config.train.parallel, compile_blocks=bool(config.train.compile))
    optimizers = build_optimizers(model, config.optim)
    if loaded is not None:
        load_optimizer_tensors(optimizers, loaded.optimizer)
    return model, optimizers, loaded.state if loaded else TrainState()


def loss_of(config: RunConfig, tokenizer: Tokenizer, ranks: Ranks, *, compile_it: bool) -> LossFunction:
    """The loss that a resolved configuration asks for; of a divided model it is not compiled, but each block."""
    eos_id = tokenizer.eos_id if config.data.document_mask else None
    train, divided = config.train, is_divided(ranks, config.train.parallel)
    return make_loss_function(
        train.device, train.precision, eos_id=eos_id, n_chunks=train.loss_chunks, is_divided=divided,
        compile_it=compile_it and not divided,
    )  # fmt: skip


def attention_kernel(config: RunConfig) -> str:
    """The kernel that runs, by name (see `find_attention_kernel`)."""
    shape = resolve_shape(config.model)
    return find_attention_kernel(
        config.train.device,
        config.train.precision,
        n_heads=shape.n_heads,
        d_head=shape.d_head or 1,
        n_positions=shape.context_length,
        dropout=shape.dropout,
        compiled=bool(config.train.compile),
    )
