"""What each rank of the launches in test_distributed.py does; rank 0 writes what it found to a file."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smalllm.api import building, train
from smalllm.api.one_batch import gathered
from smalllm.checkpoint import copy_parameters
from smalllm.config import ModelConfig, OptimConfig
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors, set_lr
from smalllm.recipes import load_recipe
from smalllm.rundir import is_other_rank
from smalllm.sharded import local
from smalllm.training.distributed import ALONE, Ranks, arranged, joined
from smalllm.training.parallel import divide_model, is_divided, whole_tensors
from smalllm.training.step import LossFunction, Update, make_loss_function, train_step

SHAPE = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=96, context_length=16, norm="rmsnorm", mlp="swiglu",
    qk_norm=True, bias=True, tie_embeddings=False,
)  # fmt: skip
VOCAB, WINDOWS = 50, 8
WHOLE, IN_SHARES = (make_loss_function("cpu", "fp32", compile_it=False, is_divided=share) for share in (False, True))


class Divided:
    """A model and its optimizers, divided among ranks."""

    def __init__(self, ranks: Ranks, parallel: str, kind: str) -> None:
        self.ranks, self.loss_function = ranks, IN_SHARES if is_divided(ranks, parallel) else WHOLE
        self.model = GPT(SHAPE, vocab_size=VOCAB)
        init_weights(self.model, seed=1)
        divide_model(self.model, ranks, parallel=parallel, compile_blocks=False)
        # With a small eps, a gradient that is 0 but for rounding becomes a whole update of AdamW.
        self.optimizers = build_optimizers(self.model, OptimConfig(kind=kind, lr=1e-2, eps=1e-4))
        set_lr(self.optimizers, 1.0)

    def batches(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Two micro-batches of this rank; of some windows most is padding."""
        tokens = torch.randint(0, VOCAB, (WINDOWS, 17), generator=torch.Generator().manual_seed(step))
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].clone()
        targets[0, 5:] = -100
        targets[5, 2:] = -100
        size = WINDOWS // self.ranks.n_data // 2
        starts = ((micro * self.ranks.n_data + self.ranks.data_rank) * size for micro in range(2))
        return [(inputs[at : at + size], targets[at : at + size]) for at in starts]

    def step(self, step: int, loss: Any = None, n_batches: int = 2) -> Update:
        loss, batches = loss or self.loss_function, self.batches(step) * (n_batches // 2)
        return train_step(
            self.model.train(), self.optimizers, batches, loss, seed=0, step=step, clip_norm=0.5, ranks=self.ranks
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        weights = whole_tensors(dict(self.model.named_parameters()), keep=True)
        return weights | whole_tensors(optimizer_tensors(self.optimizers), keep=True)

    def parts(self) -> list[torch.Tensor]:
        return [local(p).clone() for p in self.model.parameters()]


def compare(ranks: Ranks, parallel: str, kind: str) -> dict[str, Any]:
    """Some updates, beside the same ones on one process; then what a checkpoint does, there and back."""
    alone, divided = Divided(ALONE, "ddp", kind), Divided(ranks, parallel, kind)
    rows = [
        tuple((u.loss, u.grad_norm, u.n_targets) for u in (alone.step(step), divided.step(step))) for step in range(4)
    ]
    ours, theirs = alone.tensors(), divided.tensors()
    before = divided.parts()
    copy_parameters(divided.model, {k: v for k, v in theirs.items() if "/" not in k}, where="here")
    again = build_optimizers(divided.model, OptimConfig(kind=kind))
    load_optimizer_tensors(again, {k: v for k, v in theirs.items() if "/" in k})
    kept, loaded = optimizer_tensors(divided.optimizers), optimizer_tensors(again)
    same = all(map(torch.equal, before, divided.parts()))
    same &= kept.keys() == loaded.keys() and all(torch.equal(local(kept[k]), local(loaded[k])) for k in kept)
    return {
        "rows": rows,
        "names": ours.keys() == theirs.keys(),
        "apart": max(float((ours[k] - theirs[k]).abs().max()) for k in ours),
        "loads": same,
        "share": sum(p.numel() for p in before) / sum(p.numel() for p in alone.model.parameters()),
    }


def not_a_number(ranks: Ranks, parallel: str) -> list[Any]:
    """A loss that is not a number on rank 1 only: what each rank does."""
    divided = Divided(ranks, parallel, "adamw")
    divided.step(0)
    before = divided.parts()

    def broken(model: Any, token_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return divided.loss_function(model, token_ids, targets) * (float("nan") if ranks.rank == 1 else 1.0)

    refused = float(bool(divided.step(1, broken).refused))
    untouched = float(all(map(torch.equal, before, divided.parts())))
    return ranks.gather([refused, untouched, divided.step(1).loss])


class Messages(TorchDispatchMode):
    """Counts what adds up tensors of ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += "c10d" in str(func) and "reduce" in str(func)
        return func(*args, **(kwargs or {}))


def count_messages(ranks: Ranks, parallel: str) -> list[int]:
    """How often an update of two and one of six micro-batches add up tensors of ranks."""
    divided, counts = Divided(ranks, parallel, "adamw"), []
    divided.step(0)
    for n_batches in (2, 6):
        with Messages() as messages:
            divided.step(1, n_batches=n_batches)
        counts.append(messages.n)
    return counts


def whole_batch(ranks: Ranks) -> bool:
    """Whether each rank knows all windows of a step."""
    found = [rows.tolist() for rows in gathered(Divided(ranks, "ddp", "adamw").batches(0), ranks)]
    alone = [torch.cat(parts).tolist() for parts in zip(*Divided(ALONE, "ddp", "adamw").batches(0), strict=True)]
    return all(sorted(ours) == sorted(theirs) for ours, theirs in zip(found, alone, strict=True))


def steps(cases: Sequence[str]) -> dict[str, Any]:
    """Updates in all ways to divide a model."""
    with joined() as world:
        found: dict[str, Any] = {}
        for case in cases:
            parallel, kind, n_tensor = case.split()
            found[case] = compare(arranged(world, device="cpu", n_tensor=int(n_tensor)), parallel, kind)
        pairs = arranged(world, device="cpu", n_tensor=1)
        for parallel in ("ddp", "fsdp"):
            found[f"nan {parallel}"] = not_a_number(pairs, parallel)
            found[f"messages {parallel}"] = count_messages(pairs, parallel)
        for n_tensor in (1, 2):
            found[f"batch {n_tensor}"] = whole_batch(arranged(world, device="cpu", n_tensor=n_tensor))
        found["first"] = world.from_first({"text": "é", "n": 0.1, "none": None} if world.is_first else None)
        return found


def signal_at(step: int, metrics: Path) -> None:
    """This rank alone gets SIGTERM once rank 0 has written a row of the step."""

    def wait() -> None:
        while not metrics.exists() or f'"step": {step},' not in metrics.read_text():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def limited(most_rows: int) -> Callable[..., LossFunction]:
    """What `make_loss_function` is where memory holds only so many sequences at a time."""

    def make(*args: Any, **options: Any) -> LossFunction:
        loss_function = make_loss_function(*args, **options)

        def loss(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
            if len(token_ids) > most_rows:
                torch.empty(1 << 50, dtype=torch.uint8)  # more than any machine has
            return loss_function(model, token_ids, targets)

        return loss

    return make


class Fails(torch.autograd.Function):
    """A step whose backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no backward pass is compiled here")


def break_compiler(how: str) -> None:
    """The compiler fails on rank 1; or on all ranks with the last block that the backward pass comes to."""
    if how == "on one rank" and is_other_rank():
        import torch._inductor.config as inductor

        inductor.cpp.cxx = (None, "false")
    if how == "backward":

        def compile_block(block: Any, **_: Any) -> None:
            def call(*args: Any, **words: Any) -> torch.Tensor:
                found = block._call_impl(*args, **words)
                return Fails.apply(found) if block.attention.layer == 0 else found

            block._compiled_call_impl = call

        torch.nn.Module.compile = compile_block  # type: ignore[method-assign]


def runs(folder: Path) -> dict[str, Any]:
    """Whole runs, as `plan.json` has them."""
    found = {}
    for name, plan in json.loads((folder / "plan.json").read_text()).items():
        out = folder / plan["out"]
        if plan["signal"] and is_other_rank():
            signal_at(plan["signal"], out / "metrics.jsonl")
        building.make_loss_function = limited(rows) if (rows := plan.get("most_rows")) else make_loss_function
        break_compiler(plan.get("broken", ""))
        try:
            result = train(
                load_recipe(str(folder / plan["recipe"])), out=out, resume=plan["resume"], changes=plan["changes"]
            )
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        found[name] = result
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, what = Path(sys.argv[1]), sys.argv[2:]
    found = runs(folder) if not what else steps(what)
    (folder / f"found-{os.environ['RANK']}.json").write_text(json.dumps(found))
