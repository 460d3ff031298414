"""Small models of the four families, with weights far from their initial values."""

from typing import Any

import torch

from smalllm.config import ModelConfig
from smalllm.model.gpt import GPT
from smalllm.recipes.resolve import resolve_shape

VOCAB_SIZE = 61  # not a multiple of 64: there are rows that pad the vocabulary
EOS_ID = 3

FAMILY_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned"},
    "starcoder2": {"rope_theta": 5_000.0},
    "llama": {"norm": "rmsnorm", "mlp": "swiglu", "rope_theta": 5_000.0},
    "qwen3": {"norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "rope_theta": 5_000.0},
}


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Each family tied and untied, with and without biases, with grouped and wide heads where its class has them."""
    found = []
    for name in FAMILY_SHAPES:
        for tie in (True, False):
            for bias in (False,) if name == "qwen3" else (True, False):
                heads = [{}] if name == "gpt2" else [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "d_head": 16}]
                found += [(name, {"tie_embeddings": tie, "bias": bias, **h}) for h in heads]
    return found


def name_of(variant: tuple[str, dict[str, Any]]) -> str:
    return "-".join([variant[0], *(f"{k}={v}" for k, v in variant[1].items())])


def make_config(family: str, **changes: Any) -> ModelConfig:
    small = {"n_layers": 2, "n_heads": 4, "d_model": 32, "context_length": 24, "norm_eps": 1e-6}
    return resolve_shape(ModelConfig(**{**small, **FAMILY_SHAPES[family], **changes}))


def make_model(config: ModelConfig, *, vocab_size: int = VOCAB_SIZE, seed: int = 0, std: float = 0.2) -> GPT:
    """Every parameter is random, and zero nowhere; norms are around 1."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, vocab_size=vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = std * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
    return model.eval()


def make_ids(*shape: int, vocab_size: int = VOCAB_SIZE, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))
