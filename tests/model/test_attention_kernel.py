"""The kernel that is named is the one that ran."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from smalllm.model.attention_kernel import find_attention_kernel

SHAPE = {"n_heads": 2, "d_head": 16, "n_positions": 32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_has_flash_attention(precision: str) -> None:
    assert find_attention_kernel("cpu", precision, **SHAPE) == "flash"


def test_dropout_leaves_the_fused_kernel_on_a_cpu() -> None:
    assert find_attention_kernel("cpu", "fp32", dropout=0.1, **SHAPE) == "math"


def test_another_choice_is_seen() -> None:
    with sdpa_kernel(SDPBackend.MATH):
        assert find_attention_kernel("cpu", "fp32", **SHAPE) == "math"


@pytest.mark.gpu
def test_half_precision_on_a_gpu_has_a_fused_kernel() -> None:
    assert torch.cuda.is_available()
    assert find_attention_kernel("cuda", "bf16", **SHAPE) in ("cudnn", "flash")
