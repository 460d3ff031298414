"""What `smalllm doctor` finds out by trying."""

from smalllm import runtime
from smalllm.model.attention_kernel import find_attention_kernel

_SHAPE = {"n_heads": 12, "d_head": 64, "n_positions": 1024}  # of the 124M models


def attention_kernels(device: str, precision: str) -> dict[str, str]:
    """Which kernel attends in training, found by running it at the 124M models' shape: by case, in words.

    Compiled, where it can be.
    """
    compiled = runtime.missing_compiler(device) is None
    cases = {
        f"{name}, {dropout}": (name, share)
        for name in dict.fromkeys((precision, "fp32"))
        for dropout, share in (("without dropout", 0.0), ("with dropout", 0.1))
    }
    return {
        case: find_attention_kernel(device, name, dropout=share, compiled=compiled, **_SHAPE)
        for case, (name, share) in cases.items()
    }
