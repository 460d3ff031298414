"""How much memory a run takes, part by part, reckoned from its shape.

Tensors, in bytes, of N parameters (padding rows included) and a micro-batch of n tokens, with a = 2 in BF16, else 4:

    weights       4 N
    optimizer     8 N for AdamW; 4 for each of Muon's
    gradients     4 N, which a forward pass finds only where micro-batches add up
    casts         a copy of the matrices in BF16
    activations   n x the sum over the layers of what the backward pass needs (see `activation_bytes`)
    logits        n V x (a + 8) not compiled: the logits, and in FP32 the log-probabilities and their gradient;
                  n V x a compiled, where the loss and its gradient are fused

All but the gradients are there when the backward pass begins, which is the peak. On a GPU that is what
`peak_memory_bytes` counts. On a CPU it counts the process: add what it is without a model, and what the allocator
keeps of memory that is free (`HEAP_SHARE`, measured; docs/planning.md).

Source for counting what is saved: Korthikanti et al. 2022, "Reducing Activation Recomputation", section 4; here with
PyTorch's autocast, whose residual stream and normalisation are FP32, and with flash attention.
"""

from dataclasses import dataclass

from smalllm.config import ModelConfig, OptimConfig, TrainConfig
from smalllm.model.count import count_parameters
from smalllm.model.gpt import padded_vocab_size
from smalllm.recipes.resolve import resolve_shape

# Of a process that trains on a CPU: measured with PyTorch 2.13 on Linux; see docs/planning.md.
PROCESS_BYTES = 350_000_000  # Python, PyTorch and its libraries' own buffers
COMPILER_BYTES = 140_000_000  # what torch.compile adds: its modules, and what it leaves behind
HEAP_SHARE = {False: 0.75, True: 0.27}  # holes in the heap, of activations and gradients; by whether compiled

_EVAL_WINDOWS, _EVAL_TOKENS, _EVAL_ROWS = 16, 8_192, 1_024  # scored at once; of these, rows in FP32


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The parts of a run's peak [bytes].

    Attributes:
        process: on a CPU, the program itself; 0 on a GPU, where only tensors count.
        weights: in FP32.
        optimizer: its state.
        gradients: those that are there at the peak.
        casts: the weights in BF16, for the products.
        activations: of one micro-batch, kept for the backward pass.
        logits: of one micro-batch, and what the loss makes of them.
        evaluation: what scoring needs more than an update does.
        heap: on a CPU, free memory that the allocator keeps.
        data: on a CPU, pages of the shards that were read; the system takes them back where memory is short.
    """

    process: int
    weights: int
    optimizer: int
    gradients: int
    casts: int
    activations: int
    logits: int
    evaluation: int
    heap: int
    data: int = 0

    @property
    def total(self) -> int:
        """The peak [bytes]."""
        return sum(getattr(self, name) for name in self.__slots__)


def predict_memory(
    model: ModelConfig, optim: OptimConfig, train: TrainConfig, *, vocab_size: int, data_bytes: int = 0
) -> Memory:
    """What a run of this shape will need at its peak.

    Args:
        model: the shape.
        optim: for the optimizer's state.
        train: resolved: micro-batch, precision, compilation and device.
        vocab_size: real token ids.
        data_bytes: of shards that the run will read.
    """
    assert isinstance(train.micro_batch_size, int), "resolved"
    n_rows, compiled = padded_vocab_size(vocab_size), bool(train.compile)
    item = 2 if train.precision == "bf16" else 4
    n_tokens = train.micro_batch_size * model.context_length
    count = count_parameters(model, vocab_size=n_rows)
    weights = 4 * count.total
    casts = 2 * count.multiplying if item == 2 else 0
    activations = n_tokens * model.n_layers * activation_bytes(model, precision=train.precision, compiled=compiled)
    logits = n_tokens * n_rows * (item if compiled else 12)
    update = casts + activations + logits
    adds_up = train.tokens_per_step > n_tokens
    gradients = weights if adds_up else max(0, weights - update)
    on_cpu = train.device == "cpu"
    return Memory(
        process=PROCESS_BYTES + (COMPILER_BYTES if compiled else 0) if on_cpu else 0,
        weights=weights,
        optimizer=_optimizer_bytes(model, optim, n_parameters=count.total),
        gradients=gradients,
        casts=casts,
        activations=activations,
        logits=logits,
        evaluation=max(0, _scoring_bytes(model, n_rows=n_rows, item=item) - update),
        heap=int(HEAP_SHARE[compiled] * (activations + gradients)) if on_cpu else 0,
        data=data_bytes if on_cpu else 0,
    )


def activation_bytes(model: ModelConfig, *, precision: str, compiled: bool) -> int:
    """What one block keeps of one token for its backward pass [bytes].

    With a bytes for a number in a product: the stream before each norm and the norm's result, queries, keys and
    values as attention takes them and what it gives, and the inner values of the MLP before and after its
    nonlinearity. Not compiled, the three projections keep a copy each of the norm's BF16 result, and a norm of
    elementary operations (RMSNorm) its result before the gain.

    Dropout keeps a mask where it applies and, since no flash kernel has it, attention's probabilities.
    """
    c = resolve_shape(model)
    assert c.d_head is not None and c.n_kv_heads is not None and c.d_ff is not None
    a = 2 if precision == "bf16" else 4
    d, d_q, d_kv, is_gated = c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head, c.mlp == "swiglu"
    stream = 16 * d
    attention = 2 * a * (d_q + d_kv)
    mlp = a * c.d_ff * (2 if not is_gated else 3 if compiled else 4)
    if not compiled:
        stream += 8 * d if c.norm == "rmsnorm" else 0
        stream += a * d if is_gated and a == 2 else 0
        attention += 8 * (d_q + d_kv) if c.qk_norm else 0
    dropped = 0
    if c.dropout:
        dropped = 2 * a * d + (14 if a == 2 else 12) * c.n_heads * c.context_length
    return stream + attention + mlp + dropped


def _optimizer_bytes(model: ModelConfig, optim: OptimConfig, *, n_parameters: int) -> int:
    """Two moments of AdamW, or one of Muon for the matrices in the blocks."""
    in_blocks = count_parameters(model, vocab_size=1).blocks if optim.kind == "muon" else 0
    return 8 * n_parameters - 4 * in_blocks


def _scoring_bytes(model: ModelConfig, *, n_rows: int, item: int) -> int:
    """Of an evaluation: the logits of some windows, and of some of their rows in FP32."""
    n_tokens = model.context_length * min(_EVAL_WINDOWS, max(1, _EVAL_TOKENS // model.context_length))
    d_ff = resolve_shape(model).d_ff or 0
    return n_tokens * (item * (n_rows + 2 * d_ff) + 12 * model.d_model) + 8 * n_rows * min(n_tokens, _EVAL_ROWS)
