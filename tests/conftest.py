"""What tests share: one torch thread, small shapes, and models whose weights leave nothing at 0 or 1."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:  # smalllm itself is imported in the fixtures: the shape-checking hook is not there yet when this is
    from smalllm.config import ModelConfig
    from smalllm.model.gpt import GPT

VOCAB_SIZE = 61  # not a multiple of 64, so the matrices have padding rows
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "bias": True},
    "llama": {"norm": "rmsnorm", "mlp": "swiglu"},
    "modern": {"norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "n_kv_heads": 2, "tie_embeddings": False},
    "mixed": {"qk_norm": True, "n_kv_heads": 1, "bias": True},
}

# No deadline: the first example of a test may import torch. In CI the same examples each time, elsewhere new ones.
settings.register_profile("smalllm", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("smalllm")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_switches() -> Iterator[None]:
    """Put back what a test that trains has set for the whole process: hypothesis needs numbers near 0, for one."""
    yield
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def tiny_config() -> "ModelConfig":
    """A shape small enough for milliseconds."""
    from smalllm.config import ModelConfig

    return ModelConfig(n_layers=2, n_heads=4, d_model=32, context_length=16)


@pytest.fixture(params=SHAPES)
def any_config(request: pytest.FixtureRequest, tiny_config: "ModelConfig") -> "ModelConfig":
    """Each kind of norm, MLP, position, head grouping and tie, in turn."""
    return replace(tiny_config, **SHAPES[request.param])


@pytest.fixture
def make_model() -> Callable[..., "GPT"]:
    """A model with random values in every parameter, biases and norms too, in evaluation mode."""
    from smalllm.model.gpt import GPT

    def make(config: "ModelConfig", *, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> "GPT":
        model = GPT(config, vocab_size=vocab_size)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = 0.2 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
        return model.eval()

    return make


@pytest.fixture
def token_ids() -> torch.Tensor:
    """Four windows of the tiny shape's context [B T]."""
    return torch.randint(VOCAB_SIZE, (4, 16), generator=torch.Generator().manual_seed(1))
