"""What the tests of preparing on several machines share: documents as datatrove gives them, and tasks without it."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.api.foreign import tokenizer_facts
from smalllm.data.cluster import ShardWriter
from smalllm.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer
from smalllm.tokenizers.workers import encode_here

VAL_FRACTION, SHARD_TOKENS = 0.3, 900


@dataclass
class Trove:
    """What a datatrove document is to the writer."""

    text: Any
    id: str


def bytes_tokenizer(folder: Path) -> Path:
    save_tokenizer(build_tokenizer("bytes", vocab_size=None, path=None, texts=list), folder)
    return folder


def file_texts(n_files: int = 5, n_texts: int = 20) -> list[list[str]]:
    draw = random.Random(4)
    return [[f"{f}.{i} " + "é\n" * draw.randrange(40) for i in range(n_texts)] for f in range(n_files)]


def write_files(folder: Path, texts: Sequence[Sequence[str]]) -> None:
    folder.mkdir()
    for number, of_file in enumerate(texts):
        lines = [json.dumps({"text": text, "id": f"{number}.jsonl/{i}"}) for i, text in enumerate(of_file, start=1)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))


def documents_of(texts: Sequence[Sequence[str]], task: int = 0, n_tasks: int = 1) -> list[Trove]:
    """The documents of a task, dealt out as datatrove does it: every n-th file."""
    return [
        Trove(text, f"{number}.jsonl/{i}")
        for number, of_file in list(enumerate(texts))[task::n_tasks]
        for i, text in enumerate(of_file, start=1)
    ]


def writer(out: Path, tokenizer: Path, **changes: Any) -> ShardWriter:
    """As `smalllm.shard_writer` makes it, but for the statistics."""
    arguments: dict[str, Any] = {
        "out": out,
        "tokenizer": tokenizer,
        "facts": tokenizer_facts(load_tokenizer(tokenizer)),
        "load": load_tokenizer,
        "encode": encode_here,
        "val_fraction": VAL_FRACTION,
        "shard_tokens": SHARD_TOKENS,
        "source": "test",
    }
    return ShardWriter(**arguments | changes)


def write_all(out: Path, tokenizer: Path, *, n_tasks: int, tasks: Iterable[int] | None = None, **changes: Any) -> None:
    for task in range(n_tasks) if tasks is None else tasks:
        writer(out, tokenizer, **changes)(documents_of(file_texts(), task, n_tasks), task, n_tasks)
