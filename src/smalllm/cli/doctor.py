"""`smalllm doctor`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from smalllm.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Show the device, the precision that "auto" means here, the measured speed, and what is missing."""

    json: bool = False
    """Print it as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Options, arguments, command="doctor")
    from smalllm import runtime
    from smalllm.api.doctor import attention_kernels

    device = runtime.pick_device("auto")
    precision = runtime.pick_precision("auto", device)
    runtime.configure(threads=runtime.n_physical_cores(), precision=precision)
    facts = {
        **runtime.environment(device),
        "precision": precision,
        "matmul_flops": {p: runtime.matmul_flops(device, p) for p in dict.fromkeys(("fp32", precision))},
        "attention_kernels": attention_kernels(device, precision),
        "compile": runtime.missing_compiler(device) or "available",
    }
    if options.json:
        print(json.dumps(facts))
        return 0
    print(f"device     {facts['device']} ({device}, {facts['cores']} cores)")
    print(f"precision  {precision}")
    for name, rate in facts["matmul_flops"].items():
        print(f"matmul     {rate / 1e9:,.0f} GFLOP/s in {name}, 4096 x 4096 x 4096")
    for what, kernel in facts["attention_kernels"].items():
        print(f"attention  {kernel}: {what}")
    print(f"compile    {facts['compile']}")
    print(f"software   Python {facts['python']}, PyTorch {facts['torch']}, {facts['platform']}")
    return 0
