"""How much memory a run takes, part by part, reckoned from its shape.

Tensors, in bytes, of N parameters (padding rows included) and a micro-batch of n tokens, with a = 2 in BF16 and FP16,
else 4:

    weights       4 N
    optimizer     8 N for AdamW; 4 for each of Muon's
    gradients     4 for each parameter whose gradient is there: all from the start where micro-batches add up
    casts         a copy of the matrices in BF16 until the backward pass has gone through them
    activations   n x what the blocks keep for the backward pass (`activation_bytes`; of a block that is computed again
                  its input, 4 d), and what the backward pass of one block works with
    logits        of one part (`model/cross_entropy.py`) with its gradients: r V x 2 a for r tokens, and not compiled
                  in FP32 too; the head's gradient of each part, a. Made at once, n V x 12 not compiled, else n V x a
    update        what Muon works with: 12 for each number of the matrices that it does together

Not all are there at once. The peak is the largest sum at one of these moments: the loss; the backward pass of each
block, when the later ones have gradients, the earlier ones still all they keep, and one that is computed again is
whole; the update. On a GPU that is what `peak_memory_bytes` counts. On a CPU it counts the process: add what it is
without a model, and the heap's holes: memory that the allocator keeps and cannot use again (`HEAP_SHARE`, measured;
docs/planning.md).

Source for counting what is saved: Korthikanti et al. 2022, "Reducing Activation Recomputation", section 4; here with
PyTorch's autocast, whose residual stream and normalisation are FP32, and with flash attention.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from smalllm import runtime
from smalllm.config import ModelConfig, OptimConfig, TrainConfig
from smalllm.model import tile_attention
from smalllm.model.count import count_parameters, flops_per_token
from smalllm.model.cpu_attention import BLOCK as ATTENTION_BLOCK
from smalllm.model.cross_entropy import SUMMED_BYTES, fitting_parts
from smalllm.model.gpt import padded_vocab_size
from smalllm.recipes.resolve import resolve_shape

# Of a process that trains on a CPU: measured with PyTorch 2.13 and glibc 2.36 on Linux; see docs/planning.md.
PROCESS_BYTES = 350_000_000  # Python, PyTorch and its libraries' own buffers
COMPILER_BYTES = 140_000_000  # what torch.compile adds: its modules, and what it leaves behind
HEAP_SHARE = {False: 0.48, True: 0.27}  # of what comes and goes in an update; by whether compiled

_EVAL_WINDOWS, _EVAL_TOKENS, _EVAL_ROWS = 16, 8_192, 1_024  # scored at once; of these, rows in FP32
_MUON_NUMBERS = 1 << 25  # in matrices that Muon does together, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The parts of a run's peak [bytes].

    Attributes:
        process: on a CPU, the program itself; 0 on a GPU, where only tensors count.
        weights: in FP32.
        optimizer: its state.
        gradients: those that are there at the peak.
        casts: weights in BF16, for the products.
        activations: of one micro-batch, kept for the backward pass or in work there.
        logits: of one micro-batch, and what the loss makes of them.
        update: what the optimizer works with.
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
    update: int
    evaluation: int
    heap: int
    data: int = 0

    @property
    def total(self) -> int:
        """The peak [bytes]."""
        return sum(getattr(self, name) for name in self.__slots__)


def predict_memory(
    model: ModelConfig, optim: OptimConfig, train: TrainConfig, *, vocab_size: int, data_bytes: int = 0, n_data: int = 1
) -> Memory:
    """What a process of a run of this shape will need at its peak.

    Args:
        model: the shape.
        optim: for the optimizer's state.
        train: resolved: micro-batch, precision, compilation and device.
        vocab_size: real token ids.
        data_bytes: of shards that the run will read.
        n_data: processes that share the windows of a step; with `train.parallel = "fsdp"` they share the weights too.
    """
    n_rows, compiled, on_cpu = padded_vocab_size(vocab_size), bool(train.compile), train.device == "cpu"
    count = count_parameters(model, vocab_size=n_rows)
    moments = list(_moments(model, optim, train, n_rows=n_rows, n_data=n_data))
    peak = max(moments, key=lambda moment: moment.total)
    item = runtime.product_dtype(train.precision).itemsize
    # Besides the most that is kept, and gradients, the many small tensors of a block, forward and backward (not
    # attention's probabilities, which are few and large). A block that is computed again leaves as many a second time.
    small = activation_bytes(replace(model, dropout=0.0), train)
    most = max(moment.activations for moment in moments)
    n_tokens = _n_tokens(model, train)
    comes_and_goes = most + 4 * count.total + 2 * small * n_tokens
    n_passes = 1 + sum(_recomputed(model, train)) / model.n_layers
    share = (count.blocks / train.tensor_parallel + count.total - count.blocks) / count.total
    is_sharded, accumulates = train.parallel == "fsdp" and n_data > 1, train.tokens_per_step > n_data * n_tokens
    kept, gathered = share / n_data if is_sharded else share, 0
    if is_sharded:  # all but the blocks, and two of them, the next being fetched while one works
        gathered = 4 * (count.total - count.blocks) + 8 * count.blocks // (model.n_layers * train.tensor_parallel)
    gradients = peak.gradients * (share if accumulates or not is_sharded else kept)
    scoring = _scoring_bytes(model, n_rows=n_rows, item=item) + (4 * count.total if kept < 1 else 0)  # by a whole model
    return Memory(
        process=PROCESS_BYTES + (COMPILER_BYTES if compiled else 0) + _kernel_bytes(model, train) if on_cpu else 0,
        weights=int(4 * count.total * kept) + gathered,
        optimizer=int(_optimizer_bytes(model, optim, n_parameters=count.total) * kept),
        gradients=int(gradients) + (0 if accumulates else gathered),
        casts=peak.casts,
        activations=peak.activations,
        logits=peak.logits,
        update=peak.update,
        evaluation=max(0, scoring - peak.total),
        heap=int(HEAP_SHARE[compiled] * n_passes * comes_and_goes) if on_cpu else 0,
        data=data_bytes if on_cpu else 0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    """What there is at once, besides weights and optimizer state [bytes]."""

    gradients: int
    casts: int = 0
    activations: int = 0
    logits: int = 0
    update: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.casts + self.activations + self.logits + self.update


def _moments(
    model: ModelConfig, optim: OptimConfig, train: TrainConfig, *, n_rows: int, n_data: int
) -> Iterator[_Moment]:
    """Of an update, those at which memory may be at its peak, in order."""
    n_tokens, compiled = _n_tokens(model, train), bool(train.compile)
    item = runtime.product_dtype(train.precision).itemsize
    cast = item if item < 4 else 0  # of a weight
    total = 4 * count_parameters(model, vocab_size=n_rows).total
    block = count_parameters(model, vocab_size=1).blocks // model.n_layers  # parameters
    head = n_rows * model.d_model
    whole = n_tokens * activation_bytes(model, train)
    again = _recomputed(model, train)
    kept = [4 * n_tokens * model.d_model if is_again else whole for is_again in again]
    lasting = total if train.tokens_per_step > n_tokens else 0
    n_parts = _n_parts(model, train, n_rows=n_rows, n_data=n_data)
    before = dict(casts=cast * (block * again.count(False) + head), activations=sum(kept))
    if not n_parts:
        yield _Moment(gradients=lasting, logits=n_tokens * n_rows * (item if compiled else 12), **before)
    else:  # the last part is worked at; then the sum of all is made
        apart = min(n_parts, max(1, SUMMED_BYTES // (item * head)))  # gradients of the head that are not added up
        parts = item * head * apart + (4 * head if n_parts > apart else 0)
        logits = -(-n_tokens // n_parts) * n_rows * (2 * item if compiled else 12 if item < 4 else 8)
        yield _Moment(gradients=lasting + parts - item * head, logits=logits, **before)
        before["activations"] += n_tokens * model.d_model * (item + 8)  # the gradient of what the head reads
        yield _Moment(gradients=lasting + parts + 8 * head, **before)
    for layer in reversed(range(model.n_layers)):
        yield _Moment(
            gradients=lasting or 4 * (head + block * (model.n_layers - 1 - layer)),
            casts=cast * block * (again[:layer].count(False) + 1),
            activations=sum(kept[:layer]) + whole + n_tokens * _working_bytes(model, item=item),
        )
    yield _Moment(gradients=total, update=_muon_bytes(model) if optim.kind == "muon" else 0)


def _n_parts(model: ModelConfig, train: TrainConfig, *, n_rows: int, n_data: int) -> int:
    """In how many the logits are made, as `training/step.py` decides it; 0: at once, by PyTorch's loss."""
    on_cpu, is_divided = train.device == "cpu", train.tensor_parallel > 1 or (train.parallel == "fsdp" and n_data > 1)
    if is_divided or (not on_cpu and train.loss_chunks == 1):
        return 0
    item, n_tokens = runtime.product_dtype(train.precision).itemsize if train.compile else 4, _n_tokens(model, train)
    return max(train.loss_chunks, fitting_parts(n_tokens, n_rows, model.d_model, number_bytes=item) if on_cpu else 1)


def _n_tokens(model: ModelConfig, train: TrainConfig) -> int:
    assert isinstance(train.micro_batch_size, int), "resolved"
    return train.micro_batch_size * model.context_length


def _recomputed(model: ModelConfig, train: TrainConfig) -> list[bool]:
    """Which blocks are computed again in the backward pass."""
    every = train.activation_checkpointing
    return [bool(every) and layer % every == 0 for layer in range(model.n_layers)]


def repeated_flops(model: ModelConfig, train: TrainConfig) -> int:
    """Operations per token that an update does twice to need less memory: forward passes of blocks [FLOP]."""
    in_blocks = flops_per_token(model, vocab_size=0)
    again = in_blocks * sum(_recomputed(model, train)) / model.n_layers
    return round(again / 3)  # the forward pass is a third of all


def _working_bytes(model: ModelConfig, *, item: int) -> int:
    """What the backward pass of a block has of one token besides what was kept: gradients of MLP and stream."""
    c = resolve_shape(model)
    return item * (c.d_ff or 0) * (3 if c.mlp == "swiglu" else 2) + 4 * c.d_model


def _kernel_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """What each thread keeps for the attention of `tile_attention`: 30 bytes for each number of a head."""
    c = resolve_shape(model)
    assert c.d_head is not None
    is_ours = tile_attention.takes(train.device, runtime.product_dtype(train.precision), c.d_head)
    return 30 * c.context_length * c.d_head * (train.threads or 1) if is_ours else 0


def _muon_bytes(model: ModelConfig) -> int:
    """Of the most matrices of one shape that are done together: FP32 directions and changes, and copies in BF16."""
    c = resolve_shape(model)
    assert c.d_head is not None and c.n_kv_heads is not None and c.d_ff is not None
    d, d_q, d_kv = c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    shapes = [(d_q, d), (d_kv, d), (d_kv, d), (d, d_q), (c.d_ff, d), (d, c.d_ff)]
    shapes += [(c.d_ff, d)] if c.mlp == "swiglu" else []
    return max(
        12 * max(rows * columns, min(_MUON_NUMBERS, c.n_layers * n * rows * columns))
        for (rows, columns), n in Counter(shapes).items()
    )


def activation_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """What one block keeps of one token for its backward pass [bytes].

    With a bytes for a number in a product: the stream before each norm and the norm's result, queries, keys and
    values as attention takes them and what it gives, and the inner values of the MLP before and after its
    nonlinearity. Not compiled, the three projections keep a copy each of the norm's BF16 result, and a norm of
    elementary operations (RMSNorm) its result before the gain.

    Dropout keeps a mask where it applies and, since no flash kernel of a CPU has it, attention's probabilities.
    Compiled for a CPU, masks are computed again, and the scores of each block of queries are kept, without most of the
    future. Our own kernel (`tile_attention`) keeps nothing for dropout.
    """
    c, compiled, precision = resolve_shape(model), bool(train.compile), train.precision
    assert c.d_head is not None and c.n_kv_heads is not None and c.d_ff is not None
    a = runtime.product_dtype(precision).itemsize
    d, d_q, d_kv, is_gated = c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head, c.mlp == "swiglu"
    stream = 16 * d
    attention = 2 * a * (d_q + d_kv)
    mlp = a * c.d_ff * (2 if not is_gated else 3 if compiled else 4)
    if not compiled:
        stream += 8 * d if c.norm == "rmsnorm" else 0
        stream += a * d if is_gated and a == 2 else 0
        attention += 8 * (d_q + d_kv) if c.qk_norm else 0
    dropped = 0
    is_fused = train.device != "cpu" or tile_attention.takes("cpu", runtime.product_dtype(precision), c.d_head)
    if c.dropout and not (compiled and train.device == "cpu"):
        dropped += 2 * a * d
    if c.dropout and not is_fused:
        scores = c.n_heads * (c.context_length + ATTENTION_BLOCK) // 2
        dropped += a * scores if compiled else (14 if a == 2 else 12) * c.n_heads * c.context_length
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
