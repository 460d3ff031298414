"""The last step of a datatrove pipeline: the documents of one task become one part of a data directory.

datatrove starts the tasks (on this machine, by Slurm, on Ray), reads and filters. It takes for a step anything that
can be called with documents, rank and number of tasks, so nothing of it is imported here. The processes it starts need
no torch either. Where tokenizers come from, and the merge of the parts, are in `api/cluster.py`.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from smalllm.data.document import Document
from smalllm.data.manifest import TokenizerFacts
from smalllm.data.parts import check_unmerged, part_path
from smalllm.data.prepare import prepare_shards
from smalllm.data.summary import partial_tokens
from smalllm.data.text_files import cut_document
from smalllm.errors import DataError, TokenizerError
from smalllm.protocols import EncodeAll, Tokenizer


@runtime_checkable
class TroveDocument(Protocol):
    """What is read of datatrove's `Document`."""

    @property
    def text(self) -> str:
        """What it says."""
        ...

    @property
    def id(self) -> str:
        """Where it is from: `file.jsonl/12` from datatrove's readers."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardWriter:
    """Writes the documents of a task as a part of `out`; made by `smalllm.shard_writer`.

    Attributes:
        out: the data directory, on a file system that all machines share.
        tokenizer: the folder it is saved in, on such a file system too.
        facts: of that tokenizer; every task compares.
        load: gives the tokenizer of a folder.
        encode: encodes with a tokenizer, in this process.
        val_fraction: share of the documents that go to validation, by the hash of their text.
        shard_tokens: tokens per file, at most.
        source: what the manifest says of the text.
        stats: datatrove's statistics of this step, which it prints and saves; None keeps none.
    """

    out: Path
    tokenizer: Path
    facts: TokenizerFacts
    load: Callable[[Path], Tokenizer]
    encode: Callable[[Tokenizer], EncodeAll]
    val_fraction: float
    shard_tokens: int
    source: str
    stats: Any = None

    def __call__(self, data: Iterable[TroveDocument] | None, rank: int = 0, world_size: int = 1) -> None:
        """Write part `rank` of `world_size`, from its first document even where it is there already.

        So what is there is always what the last pipeline gave, though `source` may say the same. Documents without
        text are left out, and counted as `dropped` in the statistics.

        Raises:
            DataError: no step comes before this one, `out` holds other data, or the text cannot be used.
            TokenizerError: the tokenizer is not the one this writer was made with.
        """
        if data is None:
            raise DataError("The shard writer got no documents; expected a reader as the first step of the pipeline.")
        check_unmerged(self.out)
        tokenizer = _load_once(self.load, self.tokenizer)
        if tokenizer.fingerprint != self.facts.sha256:
            raise TokenizerError(
                f"{self.tokenizer}: holds {tokenizer.kind} {tokenizer.fingerprint}; expected {self.facts.sha256}, the "
                "one when the job was started. Delete the parts, and start all tasks again with one tokenizer."
            )
        part = part_path(self.out, rank)
        if rank == 0:  # for the merge; once is enough
            shutil.copytree(self.tokenizer, part / "tokenizer", dirs_exist_ok=True)
        manifest = prepare_shards(
            lambda: self._documents(data),
            encode=self.encode(tokenizer),
            tokenizer=self.facts,
            out=part,
            val_fraction=self.val_fraction,
            shard_tokens=self.shard_tokens,
            source={"kind": "cluster", "text": self.source, "task": rank, "tasks": world_size},
            is_partial=partial_tokens(tokenizer),
            is_part=True,
            redo=True,
        )
        for split, found in manifest.splits.items():
            for name in ("documents", "tokens", "text_bytes"):
                self._count(f"{split}_{name}", getattr(found, name))

    def __repr__(self) -> str:
        """What datatrove's log shows."""
        return f"smalllm shards: {self.out}"

    def _documents(self, data: Iterable[TroveDocument]) -> Iterator[Document]:
        for document in data:
            text: object = document.text  # a filter of the user's may have left anything there
            is_empty = True
            if isinstance(text, str):
                # "file.jsonl/12" becomes "file.jsonl:12", as smalllm's own readers say it
                for piece in cut_document(Document(text, ":".join(str(document.id).rsplit("/", 1)))):
                    is_empty = False
                    yield piece
            if is_empty:
                self._count("dropped", 1)

    def _count(self, name: str, value: int) -> None:
        if self.stats is not None:
            self.stats[name].update(value, "task")


@lru_cache(maxsize=1)
def _load_once(load: Callable[[Path], Tokenizer], directory: Path) -> Tokenizer:
    """The tokenizer, loaded once by a process, however many tasks it works on."""
    return load(directory)
