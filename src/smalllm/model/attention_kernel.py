"""Which attention kernel PyTorch chooses: looked up by running it, not guessed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from smalllm.model import tile_attention
from smalllm.runtime import product_dtype

_KERNELS = {
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_flash_attention_for_cpu": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
}  # "math" has no name of its own: it is the products and the softmax written out


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def find_attention_kernel(
    device: str,
    precision: str,
    *,
    n_heads: int,
    d_head: int,
    n_positions: int,
    dropout: float = 0.0,
    compiled: bool = False,
) -> str:
    """The kernel of one causal training pass: "cudnn", "flash", "efficient", "math", or our own "tiles" and "blocks".

    Under autocast the queries, keys and values come out of half-precision products, so they are in half precision here
    too; nobody has to cast them.

    Args:
        device: cpu, cuda or mps.
        precision: of the matrix products.
        n_heads: query heads.
        d_head: their width.
        n_positions: of a window.
        dropout: share of the attention weights dropped; on a CPU no fused kernel does that.
        compiled: whether the model is; then `cpu_attention` does it in blocks.
    """
    if tile_attention.takes(device, product_dtype(precision), d_head):
        return "tiles"
    if compiled and dropout and device == "cpu":
        return "blocks"
    q, k, v = (
        torch.zeros(1, n_heads, n_positions, d_head, device=device, dtype=product_dtype(precision), requires_grad=True)
        for _ in range(3)
    )
    with _Names() as names:
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return next((kernel for name, kernel in _KERNELS.items() if name in names.seen), "math")
