"""Initial weights, all in one place and all from one seeded generator.

    parameter                       init = "gpt2"              init = "zero"
    token, position embedding       N(0, 0.02)                 N(0, 1) token, N(0, 0.02) position
    untied lm_head                  N(0, 0.02)                 0
    attention out, mlp down         N(0, 0.02/sqrt(2 L))       0
    other matrices                  N(0, 0.02)                 N(0, 1/sqrt(fan_in))
    norm weights, biases            1, 0                       1, 0

With "zero" every block starts as the identity and the first loss is exactly ln V; a tied head cannot start at
zero and keeps N(0, 0.02). Source: Radford et al. 2019, section 2.3 (residual scaling); nanoGPT's 0.02.
"""

import math

import torch
from torch import nn

from smalllm.model.gpt import GPT

_RESIDUAL_OUTPUTS = ("attention.out.weight", "mlp.down.weight")


def init_weights(model: GPT, *, seed: int) -> None:
    """Fill every parameter of `model`; the same seed gives the same weights on any device."""
    generator = torch.Generator().manual_seed(seed)
    zero = model.config.init == "zero"
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                std = _std(name, parameter, model) if zero else _gpt2_std(name, model)
                fresh = torch.empty(parameter.shape).normal_(0.0, 1.0, generator=generator) * std
                parameter.copy_(fresh)


def _gpt2_std(name: str, model: GPT) -> float:
    scale = math.sqrt(2 * model.config.n_layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
    return 0.02 / scale


def _std(name: str, parameter: nn.Parameter, model: GPT) -> float:
    if name.endswith(_RESIDUAL_OUTPUTS) or name.startswith("lm_head"):
        return 0.0
    if name.startswith("token_embedding"):
        return 0.02 if model.config.tie_embeddings else 1.0
    if name.startswith("position_embedding"):
        return 0.02
    return 1.0 / math.sqrt(parameter.shape[1])
