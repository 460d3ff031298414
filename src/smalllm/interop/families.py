"""The four shapes that other programs know by name, as tables: which of our fields and parameters are which of theirs.

    family       position  norm       mlp     Hugging Face class       GGUF architecture
    gpt2         learned   layernorm  gelu    GPT2LMHeadModel          gpt2
    starcoder2   rope      layernorm  gelu    Starcoder2ForCausalLM    starcoder2
    llama        rope      rmsnorm    swiglu  LlamaForCausalLM         llama
    qwen3        rope      rmsnorm    swiglu  Qwen3ForCausalLM         qwen3       (llama with qk_norm)

Nothing here reads, writes or computes; `hf_config.py` and `tensors.py` do, from these tables.

Source: transformers 5.23 `modeling_{gpt2,starcoder2,llama,qwen3}.py`; gguf 0.19 `constants.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smalllm.config import ModelConfig
from smalllm.errors import InteropError

Bias = Literal["never", "always", "optional"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A weight, and maybe a bias, of theirs.

    Attributes:
        ours: the modules of `GPT` whose rows it stacks; "{i}" is the layer.
        hf: its name in a Hugging Face checkpoint, without ".weight" or ".bias".
        gguf: the same in a GGUF file.
        bias: whether their module has one: never, always (zeros where ours has none), or as `config.bias` says.
        is_transposed: a Hugging Face `Conv1D`, whose weight is [in, out].
        n_heads: for queries and keys, the field that counts their heads.
    """

    ours: tuple[str, ...]
    hf: str
    gguf: str
    bias: Bias = "never"
    is_transposed: bool = False
    n_heads: Literal["n_heads", "n_kv_heads"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A shape that other programs know.

    Attributes:
        name: also Hugging Face's `model_type` and the GGUF architecture.
        hf_class: the Hugging Face class.
        shape: what the fields of a `ModelConfig` of this family must be.
        fields: their configuration key -> our field.
        defaults: what their class takes for a key that is absent; a key without default must be there.
        fixed: their keys that must have one value, the first of each tuple when written; absent means the first.
        bias_keys: their keys that switch biases on.
        modules: all their modules, outer ones first, then those of a layer.
        has_interleaved_gguf: llama.cpp rotates neighbouring dimensions, not halves, for this architecture.
    """

    name: str
    hf_class: str
    shape: Mapping[str, Any]
    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, tuple[Any, ...]]
    bias_keys: tuple[str, ...] = ()
    modules: tuple[Module, ...]
    has_interleaved_gguf: bool = False


def _rope_fields(eps_key: str) -> dict[str, str]:
    return {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "head_dim": "d_head",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "context_length",
        eps_key: "norm_eps",
        "tie_word_embeddings": "tie_embeddings",
    }


def _rope_modules(*, norm_bias: Bias, attention_bias: Bias, mlp: tuple[Module, ...]) -> tuple[Module, ...]:
    hf, gguf = "model.layers.{i}.", "blk.{i}."
    block = "blocks.{i}."
    return (
        Module(ours=("token_embedding",), hf="model.embed_tokens", gguf="token_embd"),
        Module(ours=("norm",), hf="model.norm", gguf="output_norm", bias=norm_bias),
        Module(ours=("lm_head",), hf="lm_head", gguf="output"),
        Module(ours=(block + "attention_norm",), hf=hf + "input_layernorm", gguf=gguf + "attn_norm", bias=norm_bias),
        Module(
            ours=(block + "attention.q",),
            hf=hf + "self_attn.q_proj",
            gguf=gguf + "attn_q",
            bias=attention_bias,
            n_heads="n_heads",
        ),
        Module(
            ours=(block + "attention.k",),
            hf=hf + "self_attn.k_proj",
            gguf=gguf + "attn_k",
            bias=attention_bias,
            n_heads="n_kv_heads",
        ),
        Module(ours=(block + "attention.v",), hf=hf + "self_attn.v_proj", gguf=gguf + "attn_v", bias=attention_bias),
        Module(
            ours=(block + "attention.out",), hf=hf + "self_attn.o_proj", gguf=gguf + "attn_output", bias=attention_bias
        ),
        Module(ours=(block + "mlp_norm",), hf=hf + "post_attention_layernorm", gguf=gguf + "ffn_norm", bias=norm_bias),
        *mlp,
    )


def _swiglu(bias: Bias) -> tuple[Module, ...]:
    return tuple(
        Module(
            ours=(f"blocks.{{i}}.mlp.{name}",),
            hf=f"model.layers.{{i}}.mlp.{name}_proj",
            gguf=f"blk.{{i}}.ffn_{name}",
            bias=bias,
        )
        for name in ("gate", "up", "down")
    )


_GPT2_BLOCK = "transformer.h.{i}."

GPT2 = Family(
    name="gpt2",
    hf_class="GPT2LMHeadModel",
    shape={"position": "learned", "norm": "layernorm", "mlp": "gelu", "qk_norm": False},
    fields={
        "n_embd": "d_model",
        "n_layer": "n_layers",
        "n_head": "n_heads",
        "n_inner": "d_ff",
        "n_positions": "context_length",
        "layer_norm_epsilon": "norm_eps",
        "tie_word_embeddings": "tie_embeddings",
    },
    defaults={"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    modules=(
        Module(ours=("token_embedding",), hf="transformer.wte", gguf="token_embd"),
        Module(ours=("position_embedding",), hf="transformer.wpe", gguf="position_embd"),
        Module(ours=("norm",), hf="transformer.ln_f", gguf="output_norm", bias="always"),
        Module(ours=("lm_head",), hf="lm_head", gguf="output"),
        Module(ours=("blocks.{i}.attention_norm",), hf=_GPT2_BLOCK + "ln_1", gguf="blk.{i}.attn_norm", bias="always"),
        Module(
            ours=("blocks.{i}.attention.q", "blocks.{i}.attention.k", "blocks.{i}.attention.v"),
            hf=_GPT2_BLOCK + "attn.c_attn",
            gguf="blk.{i}.attn_qkv",
            bias="always",
            is_transposed=True,
        ),
        Module(
            ours=("blocks.{i}.attention.out",),
            hf=_GPT2_BLOCK + "attn.c_proj",
            gguf="blk.{i}.attn_output",
            bias="always",
            is_transposed=True,
        ),
        Module(ours=("blocks.{i}.mlp_norm",), hf=_GPT2_BLOCK + "ln_2", gguf="blk.{i}.ffn_norm", bias="always"),
        Module(
            ours=("blocks.{i}.mlp.up",),
            hf=_GPT2_BLOCK + "mlp.c_fc",
            gguf="blk.{i}.ffn_up",
            bias="always",
            is_transposed=True,
        ),
        Module(
            ours=("blocks.{i}.mlp.down",),
            hf=_GPT2_BLOCK + "mlp.c_proj",
            gguf="blk.{i}.ffn_down",
            bias="always",
            is_transposed=True,
        ),
    ),
)

STARCODER2 = Family(
    name="starcoder2",
    hf_class="Starcoder2ForCausalLM",
    shape={"position": "rope", "norm": "layernorm", "mlp": "gelu", "qk_norm": False},
    fields=_rope_fields("norm_epsilon"),
    defaults={"num_key_value_heads": 2, "head_dim": None, "norm_epsilon": 1e-5, "tie_word_embeddings": True},
    fixed={"hidden_act": ("gelu_pytorch_tanh", "gelu_new"), "sliding_window": (None,)},
    bias_keys=("use_bias",),
    modules=_rope_modules(
        norm_bias="always",
        attention_bias="always",  # llama.cpp asks for them
        mlp=(
            Module(ours=("blocks.{i}.mlp.up",), hf="model.layers.{i}.mlp.c_fc", gguf="blk.{i}.ffn_up", bias="always"),
            Module(
                ours=("blocks.{i}.mlp.down",),
                hf="model.layers.{i}.mlp.c_proj",
                gguf="blk.{i}.ffn_down",
                bias="always",
            ),
        ),
    ),
)

LLAMA = Family(
    name="llama",
    hf_class="LlamaForCausalLM",
    shape={"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": False},
    fields=_rope_fields("rms_norm_eps"),
    defaults={"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    fixed={"hidden_act": ("silu", "swish")},
    bias_keys=("attention_bias", "mlp_bias"),
    modules=_rope_modules(norm_bias="never", attention_bias="optional", mlp=_swiglu("optional")),
    has_interleaved_gguf=True,
)

_QWEN3_NORMS = tuple(
    Module(
        ours=(f"blocks.{{i}}.attention.{name}_norm",),
        hf=f"model.layers.{{i}}.self_attn.{name}_norm",
        gguf=f"blk.{{i}}.attn_{name}_norm",
    )
    for name in ("q", "k")
)

QWEN3 = Family(
    name="qwen3",
    hf_class="Qwen3ForCausalLM",
    shape={"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
    fields=_rope_fields("rms_norm_eps"),
    defaults={"num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    fixed={"hidden_act": ("silu", "swish"), "use_sliding_window": (False,)},
    bias_keys=("attention_bias",),
    modules=_rope_modules(norm_bias="never", attention_bias="optional", mlp=(*_swiglu("never"), *_QWEN3_NORMS)),
)

FAMILIES = (GPT2, STARCODER2, LLAMA, QWEN3)


def family_of(config: ModelConfig) -> Family:
    """The family whose class holds a model of this shape.

    Raises:
        InteropError: there is none; the message names the field, its value and what would fit.
    """
    for family in FAMILIES:
        if all(getattr(config, name) == value for name, value in family.shape.items()):
            _check_heads(family, config)
            return family

    def n_different(family: Family) -> int:
        return sum(getattr(config, name) != value for name, value in family.shape.items())

    nearest = min(FAMILIES, key=n_different)
    wrong = [f"model.{k} = {_shown(getattr(config, k))}" for k, v in nearest.shape.items() if getattr(config, k) != v]
    wanted = ", ".join(f"{k} = {_shown(v)}" for k, v in nearest.shape.items())
    raise InteropError(
        f"no stock class holds this model: {', '.join(wrong)}; the nearest, {nearest.hf_class}, has {wanted}. "
        "Use it through smalllm, or train one of a shape that a class has (docs/interop.md lists them)"
    )


def _check_heads(family: Family, config: ModelConfig) -> None:
    if "num_key_value_heads" in family.fields:
        return
    if config.n_kv_heads not in (None, config.n_heads):
        raise InteropError(
            f"model.n_kv_heads = {config.n_kv_heads}: {family.hf_class} has a key/value head for each of its "
            f'{config.n_heads} query heads; position = "rope" has a class with grouped ones'
        )
    if config.d_head not in (None, config.d_model // config.n_heads) or config.d_model % config.n_heads:
        raise InteropError(
            f"model.d_head = {config.d_head}: in {family.hf_class} heads have d_model / n_heads = "
            f"{config.d_model / config.n_heads:g} dimensions"
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
