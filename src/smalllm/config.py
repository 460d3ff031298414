"""What a run is, as frozen dataclasses: every field, its unit, its default, and what makes a value wrong.

Facts only: recipes are read in `smalllm.recipes`, absent values become numbers in
`smalllm.recipes.resolve`.
`None` means "not given": it is derived when the run starts, and the result is stored with the run.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Position = Literal["rope", "learned"]
Norm = Literal["layernorm", "rmsnorm"]
Mlp = Literal["gelu", "swiglu"]
Init = Literal["gpt2", "zero"]
Source = Literal["stories", "python", "files", "url", "hub"]
Packing = Literal["stream", "padded"]
DataMode = Literal["shards", "stream"]
HubReader = Literal["auto", "datasets"]
TokenizerKind = Literal["gpt2", "sentencepiece", "huggingface", "bytes"]
OptimizerKind = Literal["adamw", "muon"]
Parallel = Literal["ddp", "fsdp"]
Schedule = Literal["cosine", "linear", "hold", "constant"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
TrackerName = Literal["wandb", "tensorboard", "swanlab", "trackio"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]

TASK_NAMES = ("hellaswag", "hellaswag_nanogpt", "lambada", "blimp", "arc_easy", "piqa", "wikitext")
"""What `eval.tasks` and `smalllm evaluate --tasks` know, besides the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The shape of the transformer."""

    n_layers: int = 6
    """Transformer blocks."""
    n_heads: int = 6
    """Query heads."""
    n_kv_heads: int | None = None
    """Key/value heads; absent: as many as query heads. Must divide n_heads."""
    d_model: int = 384
    """Width of the residual stream. Must be a multiple of n_heads, unless d_head is given."""
    d_head: int | None = None
    """Width of a head; absent: d_model / n_heads."""
    d_ff: int | None = None
    """Inner width of the MLP; absent: 4 d_model (gelu), or 8/3 d_model rounded up to 64 (swiglu)."""
    context_length: int = 256
    """Most positions the model accepts [tokens]."""
    position: Position = "rope"
    """How a token knows its place: rotated queries and keys, or a learned vector per position."""
    norm: Norm = "layernorm"
    """Normalisation before each attention and MLP, and at the end."""
    norm_eps: float = 1e-5
    """What every normalisation adds under its root."""
    mlp: Mlp = "gelu"
    """gelu (tanh form) with two matrices, or swiglu with three."""
    qk_norm: bool = False
    """RMS-normalise each head's queries and keys before they are rotated."""
    bias: bool = False
    """Add biases to linear layers and LayerNorm."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    dropout: float = 0.0
    """Share of activations dropped in training, in embedding, attention and MLP [0 to 1)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    init: Init = "gpt2"
    """gpt2: N(0, 0.02), residual projections smaller; zero: fan-in scaled, residual projections and untied head 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the text comes from and where its tokens go."""

    path: str | None = None
    """Data directory, or a folder of nanoGPT's, llm.c's or NumPy shards; absent: data/RECIPE."""
    source: Source = "files"
    """stories: built-in grammar; python: Python's library; files: your own; url: a download; hub: a data set."""
    files: tuple[str, ...] = ()
    """Text files, folders or globs (.txt .jsonl .parquet); given, they replace the recipe's source."""
    val_files: tuple[str, ...] = ()
    """Files held out for validation; absent: val_fraction of the documents, or of foreign shards those called val."""
    separator: str | None = None
    """What stands between documents in a text file; absent: a file is one document."""
    text_column: str = "text"
    """Name of the text in .jsonl and .parquet files."""
    val_fraction: float = 0.01
    """Share of the documents held out, chosen by a hash of their text [0 to 1). Of another program's shards, where no
    file is held out, the last tokens."""
    stories: int = 100_000
    """How many stories the stories source tells, validation included [documents]."""
    url: str | None = None
    """Address of one text file, for source = "url"."""
    sha256: str | None = None
    """Expected hash of the downloaded file [64 hex digits]."""
    hub_name: str | None = None
    """Data set for source = "hub": a name on the Hugging Face Hub, or a folder with its files in the same layout."""
    hub_config: str | None = None
    """Configuration of that data set: a language and date, a sample; absent: its default."""
    hub_split: str = "train"
    """The data set's split to train on."""
    hub_files: tuple[str, ...] = ()
    """Names or globs of files in the data set; given, they replace hub_config, hub_split and val_split."""
    hub_val_files: tuple[str, ...] = ()
    """The same for validation; given, they replace val_split."""
    hub_revision: str | None = None
    """Commit, branch or tag of the data set; absent: main."""
    hub_reader: HubReader = "auto"
    """auto: smalllm reads the files, and the datasets library those it cannot; datasets: the library reads all."""
    val_split: str | None = None
    """The data set's own split for validation; absent: val_fraction of the documents."""
    shards: int | None = None
    """How many of the data set's training files to use, the first by name; absent: all."""
    mode: DataMode = "shards"
    """shards: all text is prepared before training; stream: training text is encoded while the model trains."""
    shuffle_buffer: int = 1_000
    """Documents shuffled together where mode = "stream"; 1 keeps their order within a file."""
    shard_tokens: int = 100_000_000
    """Most tokens in one shard file."""
    packing: Packing = "stream"
    """stream: documents follow each other and are cut into windows anywhere; padded: a window is one document from its
    start, cut to context_length or padded."""
    document_mask: bool = False
    """Where a window of the stream holds several documents: keep attention inside each, and count positions from its
    start."""
    workers: int | None = None
    """Processes that encode text in `prepare`; absent: one per physical core. It does not change what is written."""
    dedup: bool = False
    """Leave out documents whose whole text came before in the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How text becomes token ids; for another program's shards, which do not say, how their ids were made."""

    kind: TokenizerKind = "gpt2"
    """gpt2, sentencepiece and huggingface (both trained on the corpus unless path is given), or bytes."""
    vocab_size: int | None = None
    """Ids to train; gpt2 has 50,257 and bytes 257."""
    path: str | None = None
    """Folder or file of an existing tokenizer, or a model on the Hugging Face Hub that has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How gradients become updates."""

    kind: OptimizerKind = "adamw"
    """adamw for everything, or muon for the hidden matrices and adamw for the rest."""
    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    min_lr_ratio: float = 0.1
    """Where the schedule ends, as a share of the peak; the update after the last one would have it."""
    schedule: Schedule = "cosine"
    """After warmup: cosine or linear to min_lr_ratio, hold (flat, then linear over decay_fraction), constant."""
    warmup_steps: int | None = None
    """Updates of linear warmup; absent: warmup_fraction of the run."""
    warmup_fraction: float = 0.0
    """Warmup as a share of the run, where warmup_steps is absent."""
    decay_fraction: float = 0.2
    """Share of the run that schedule = "hold" spends on its final decay."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""
    decay_embeddings: bool = True
    """Decay the token and position embeddings too; with muon only the matrices inside the blocks are decayed."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.95
    """AdamW's decay of the squared gradient's mean."""
    eps: float = 1e-8
    """AdamW's denominator offset."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0: no clipping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, how much at a time, on what."""

    max_steps: int | None = None
    """Updates in the run; one of the four max_ fields is enough, the smallest wins."""
    max_tokens: int | None = None
    """Tokens in the run, padding not counted."""
    max_epochs: float | None = None
    """Passes over the training data."""
    max_minutes: float | None = None
    """Wall-clock minutes, turned into steps by timing a few before the run."""
    tokens_per_step: int = 16_384
    """Tokens per update, padding included; a multiple of context_length x micro_batch_size x processes."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """Sequences per forward pass; auto: what the memory holds and the device likes. It changes nothing learned."""
    memory: int | str | None = None
    """Most memory that the run is planned for: "24GB", "800MB" or bytes; absent: what the device has free."""
    precision: Precision = "auto"
    """Arithmetic of the matrix products; auto: bf16 where it is native, fp16 on older NVIDIA GPUs, else fp32."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile; auto: when a compiler is there and the run is long enough to repay it."""
    device: DeviceChoice = "auto"
    """auto: cuda, else mps, else cpu."""
    threads: int | None = None
    """CPU threads of each process; absent: one per physical core, divided among the processes of a machine."""
    parallel: Parallel = "ddp"
    """With torchrun, ddp: each process holds the whole model; fsdp: each holds a share of it and of the optimizer's
    state."""
    tensor_parallel: int = 1
    """With torchrun: processes that share the matrices of a block and see the same windows."""
    init_from: str | None = None
    """Run or checkpoint whose weights, shape and tokenizer the run starts from; absent: new weights."""
    seed: int = 1337
    """Decides initial weights, window order and dropout."""
    save_every: int = 1_000
    """Steps between checkpoints; 0: only the last."""
    save_every_s: float = 600.0
    """Seconds between checkpoints, whichever comes first; 0: off."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, besides the best."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    skip_spikes: float = 0.0
    """Refuse updates whose loss or gradient norm is so many sigma above the mean of the last 128; 0: never."""
    rewind_after: int = 5
    """Refused updates in a row after which the run returns to its last checkpoint; 0: one not finite ends the run."""
    activation_checkpointing: int = 0
    """Every so-many-th block keeps its input only and is computed again in the backward pass; 0: none."""
    loss_chunks: int = 1
    """In how many parts the logits are made, one at a time, at least; a CPU takes as many as it is fast with."""
    patience: int = 0
    """Evaluations without a better validation loss before the run stops; 0: never."""
    overfit_one_batch: bool = False
    """For debugging: every update trains on the windows of the first again, which a sound model learns by heart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What is measured and shown while training."""

    every: int = 250
    """Steps between evaluations; 0: only at the end."""
    tokens: int = 65_536
    """Validation tokens scored each time, the same ones every time."""
    final_tokens: int = 1_048_576
    """Validation tokens scored at the end of the run; 0: the whole split."""
    tasks: tuple[str, ...] = ()
    """Tasks scored at the end of the run, as NAME or NAME=PATH; see docs/metrics.md."""
    tasks_every: int = 0
    """Steps between scorings of the tasks during the run; 0: only at the end."""
    task_examples: int = 200
    """Questions of each task scored during the run, spread evenly over it; 0: all, as at the end."""
    sample_every: int = 0
    """Steps between samples; 0: only at the end."""
    sample_prompts: tuple[str, ...] = ("",)
    """Prompts continued at each sampling; an empty one starts a new document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackConfig:
    """Where the run is shown besides its own report."""

    trackers: tuple[TrackerName, ...] = ()
    """wandb, tensorboard, swanlab, trackio, any of them; each needs the extra of its name."""
    project: str = "smalllm"
    """What the trackers file the run under."""
    name: str | None = None
    """What they call the run; absent: the name of its directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides a run."""

    recipe: str = "custom"
    """Name of the recipe it started from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def field_names(config_type: type) -> tuple[str, ...]:
    """The field names of a configuration dataclass, in order."""
    return tuple(f.name for f in fields(config_type))


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries for TOML and JSON: absent values left out, tuples as lists."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            out[f.name] = as_dict(value)
        elif isinstance(value, tuple):
            out[f.name] = list(value)
        elif value is not None:
            out[f.name] = value
    return out
