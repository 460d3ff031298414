"""A run finds the micro-batch that memory holds: by reckoning, and by trying where the system really refuses memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from run_helpers import prepared_config
from smalllm.api import building, train
from smalllm.api.fitting import fits_here
from smalllm.config import RunConfig
from smalllm.errors import DeviceMemoryError
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe, override, save_config
from smalllm.recipes.resolve import Machine, resolve
from smalllm.rundir import RunDir, read_jsonl

CHANGES: dict[str, Any] = {
    "model.context_length": 256, "model.d_model": 64, "model.dropout": 0.0, "train.tokens_per_step": 128 * 256,
    "train.micro_batch_size": 128, "train.max_steps": 4, "eval.every": 0, "eval.final_tokens": 256,
}  # fmt: skip

# Trains in a process whose memory the system limits, from the start or from a step on. What the allocator holds free
# at that step is taken, but some blocks, so that it cannot help out.
CHILD = """
import json, resource, sys, torch
from pathlib import Path
from smalllm.api import train
from smalllm.protocols import Silent
from smalllm.recipes import load_recipe

out, from_step, free_mb = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
said, ballast = [], []

def limit():
    used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + (free_mb << 20), resource.RLIM_INFINITY))

def fill():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    try:
        while True:
            ballast.append(torch.empty(4 << 20, dtype=torch.uint8))
    except RuntimeError:
        pass
    limit()

class Limited(Silent):
    def say(self, text):
        said.append(text)
    def row(self, row):
        if row["step"] == from_step and row["split"] == "train":
            fill()
        if row["step"] == 4:  # training is what is tested
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

import torch._dynamo, smalllm.api.finish, matplotlib.pyplot  # what a run imports, before the limit
if from_step == 0:
    limit()
result = train(load_recipe(sys.argv[1]), out=out, progress=Limited())
print(json.dumps({"said": said, "steps": result["steps"]}))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return prepared_config(tmp_path_factory.mktemp("fitting"), CHANGES)


def train_limited(config: RunConfig, out: Path, *, from_step: int, free_mb: int) -> tuple[str, list[float], int]:
    """What was said of memory, the losses, and the micro-batch that was stored."""
    path = out.with_suffix(".toml")
    save_config(config, path)
    command = [sys.executable, "-c", CHILD, str(path), str(out), str(from_step), str(free_mb)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["steps"] == 4
    losses = [row["loss"] for row in read_jsonl(RunDir(out).metrics) if row["split"] == "train"]
    stored = load_recipe(str(RunDir(out).config)).train.micro_batch_size
    assert isinstance(stored, int)
    return " ".join(text for text in answer["said"] if "memory" in text), losses, stored


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux")
def test_a_run_goes_on_with_smaller_micro_batches(config: RunConfig, tmp_path: Path) -> None:
    said, whole, stored = train_limited(config, tmp_path / "whole", from_step=-1, free_mb=0)
    assert (said, stored) == ("", 128)
    for from_step, free_mb in ((0, 150), (2, 60)):
        out = tmp_path / f"from-{from_step}"
        said, losses, stored = train_limited(config, out, from_step=from_step, free_mb=free_mb)
        assert "memory did not hold 128 sequences at a time" in said and "can't allocate memory" in said
        assert stored < 128 and 128 % stored == 0
        assert f"going on with {stored}, which" in said
        assert losses == pytest.approx(whole, rel=1e-5)  # the sum over micro-batches is rounded otherwise


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "with --train.activation_checkpointing 1 needs less"),
        ({"train.activation_checkpointing": 1}, "choose a smaller model or a shorter context"),
    ],
)
def test_what_to_do_is_said_where_no_micro_batch_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    def nothing_fits(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        return torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr(building, "make_loss_function", lambda *args, **options: nothing_fits)
    config = prepared_config(tmp_path, changes)
    with pytest.raises(DeviceMemoryError, match=rf"memory did not hold 1 sequence at a time \(.*{says}"):
        train(config, out=tmp_path / "run")


LAPTOP = Machine(device="cpu", precision="fp32", can_compile=False, threads=1, peak_flops=1e11)


def chosen(config: RunConfig, memory: int | str | None) -> int | str:
    config = override(config, {"train.micro_batch_size": "auto", "train.memory": memory})
    fits = fits_here(config, vocab_size=257, device="cpu")
    return resolve(config, LAPTOP, vocab_size=257, train_tokens=1, flops_per_token=1, fits=fits)[
        0
    ].train.micro_batch_size


def test_less_memory_never_gets_a_larger_micro_batch(config: RunConfig) -> None:
    sizes = [
        chosen(config, memory) for memory in ("100GB", "480MB", "430MB", "420MB", "410MB", 405_000_000, "400MB", "1KB")
    ]
    assert sizes == sorted(sizes, reverse=True)  # type: ignore[type-var]
    assert sizes[0] == chosen(config, None) == 16  # 4,096 tokens, the most that a CPU is given
    assert len(set(sizes)) > 1 and sizes[-1] == 1


@pytest.mark.parametrize(("memory", "is_told"), [("1MB", True), ("64GB", False)])
def test_a_limit_that_no_micro_batch_meets_is_told(tmp_path: Path, memory: str, is_told: bool) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    config = override(prepared_config(tmp_path), {"train.micro_batch_size": "auto", "train.memory": memory})
    train(override(config, {"train.max_steps": 1}), out=tmp_path / "run", progress=Told())
    assert any("more memory than 1MB" in text for text in said) == is_told
