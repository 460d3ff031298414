"""Some held-out text of a run, to measure its insides on: windows as it trained on them, if its data are there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from smalllm.api.data import data_path, load_data
from smalllm.data.foreign import is_foreign
from smalllm.data.manifest import MANIFEST_NAME
from smalllm.data.shards import open_split
from smalllm.data.windows import Windows, open_windows
from smalllm.errors import CheckpointError, DataError, TokenizerError
from smalllm.protocols import Progress
from smalllm.run import Run, check_tokenizer

_BATCH_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The first windows of a run's validation split.

    Attributes:
        windows: all of the split.
        n: how many of them to use.
        context_length: of each [tokens].
    """

    windows: Windows
    n: int
    context_length: int

    def batches(
        self, *, n: int | None = None, rows: int | None = None
    ) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]]:
        """Inputs and targets of the first windows, some at a time; a target of -100 is padding.

        Args:
            n: how many windows; absent: all that are to be used.
            rows: windows in a batch; absent: about 4,096 tokens.
        """
        last, rows = min(n or self.n, self.n), rows or max(1, _BATCH_TOKENS // self.context_length)
        for first in range(0, last, rows):
            inputs, targets = self.windows.read(np.arange(first, min(first + rows, last), dtype=np.int64))
            yield torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))


def open_held_out(run: Run, *, max_tokens: int, progress: Progress) -> HeldOut | str:
    """The first windows of the validation split of a run's data; or why there are none, in words.

    Args:
        run: a loaded run.
        max_tokens: about how many to use.
        progress: told what another program's shards were taken for.
    """
    directory = data_path(run.config)
    if not (directory / MANIFEST_NAME).exists() and not is_foreign(directory):
        return f"the run's data are not at {directory}"
    try:
        manifest, tokenizer = load_data(
            directory, command="", data=run.config.data, tokenizer=lambda: run.tokenizer, progress=progress
        )
        check_tokenizer(tokenizer, run.tokenizer.fingerprint, where=str(run.checkpoint))
        context_length = run.config.model.context_length
        windows = open_windows(
            open_split(directory, manifest, "val"),
            packing=run.config.data.packing,
            context_length=context_length,
            eos_id=tokenizer.eos_id,
            split="val",
        )
    except (CheckpointError, DataError, TokenizerError) as error:
        return f"the run's data cannot be used ({str(error).splitlines()[0]})"
    return HeldOut(windows, windows.first(max_tokens), context_length)
