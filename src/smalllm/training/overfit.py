"""What training on one batch again and again can reach, and whether it did: the first check of a new model or loss."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smalllm.data.padded import IGNORED

NEAR = 0.1
"""How near to the lowest loss is near [nats/token]."""
_FEW_UPDATES = 100
_SMALL_FALL = 0.1  # share of the way to the lowest loss


def lowest_loss(micro_batches: Sequence[tuple[Tensor, Tensor]], *, eos_id: int | None = None) -> float:
    """The lowest mean loss that a causal model can have on these windows [nats/token].

    Windows that begin alike give the model the same input up to where they part, so there it can only know how often
    each token follows. Everything else can be learned by heart.

    Args:
        micro_batches: inputs and targets [B T]; targets that are `IGNORED` are left out.
        eos_id: given, a model sees nothing before the last of this token (the document mask).
    """
    children: dict[tuple[int, int], int] = {}  # of the tree of all beginnings; 0 is its root
    follows: Counter[tuple[int, int]] = Counter()
    for inputs, targets in micro_batches:
        for tokens, expected in zip(inputs.tolist(), targets.tolist(), strict=True):
            node = 0
            for token, target in zip(tokens, expected, strict=True):
                node = children.setdefault((0 if token == eos_id else node, token), len(children) + 1)
                if target != IGNORED:
                    follows[node, target] += 1
    seen: Counter[int] = Counter()
    for (node, _), n in follows.items():
        seen[node] += n
    return sum(n * math.log(seen[node] / n) for (node, _), n in follows.items()) / max(1, seen.total())


@dataclass(slots=True)
class Watch:
    """Looks at the train rows of a run on one batch, and says once if the loss does not fall, and how it ended.

    Attributes:
        lowest: the loss that can be reached [nats/token].
        max_steps: of the run.
        warmup_steps: of the run.
        dropout: of the model, which keeps the loss up.
        say: told what was seen.
        first: loss of the first update; None before it.
    """

    lowest: float
    max_steps: int
    warmup_steps: int
    dropout: float
    say: Callable[[str], None]
    first: float | None = None
    has_warned: bool = False

    def row(self, row: Mapping[str, Any]) -> None:
        """Look at a row of metrics."""
        if row["split"] != "train":
            return
        loss, step = float(row["loss"]), int(row["step"])
        if self.first is None:
            self.first = loss
        if step >= self.max_steps:
            self.say(self._verdict(loss, step))
        elif step >= max(_FEW_UPDATES, self.warmup_steps + _FEW_UPDATES // 2) and not self.has_warned:
            self.has_warned = True
            if self.first - loss < _SMALL_FALL * (self.first - self.lowest):
                self.say(
                    f"WARNING: train.overfit_one_batch: after {step:,} updates on the same windows the loss is "
                    f"{loss:.3f}, it was {self.first:.3f}: it does not fall. {self._advice()}"
                )

    def _verdict(self, loss: float, step: int) -> str:
        text = (
            f"train.overfit_one_batch: the loss on the same windows went from {self.first:.3f} to {loss:.3f} nats per "
            f"token in {step:,} updates; they allow {self.lowest:.3f}: "
        )
        if loss - self.lowest < NEAR:
            return text + "near it. Model, loss and optimizer can learn"
        return text + f"not near it (within {NEAR}). {self._advice()}"

    def _advice(self) -> str:
        dropout = f"set --model.dropout 0 (it is {self.dropout:g}), " if self.dropout else ""
        return f"Try more --train.max_steps, {dropout}another --optim.lr; else look for an error in model or loss"
