"""What the tests of prepared data share: documents, a byte tokenizer, and ways to write and to compare."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from smalllm.data.document import Document
from smalllm.data.prepare import prepare_shards
from smalllm.data.shards import (
    Floor,
    Manifest,
    Split,
    TokenizerFacts,
    open_split,
    read_manifest,
    write_manifest,
)
from smalllm.data.writer import SplitState, SplitWriter
from smalllm.protocols import EncodeAll, Encoded

BYTES = TokenizerFacts(kind="bytes", sha256="ab" * 32, vocab_size=257, eos_id=256)
EOS = 256


def encode_batch(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def encoder(encode_batch: Callable[[Sequence[str]], list[list[int]]]) -> EncodeAll:
    """What `prepare_shards` takes, from a function that encodes one batch."""

    def encode(batches: Iterable[Sequence[bytes]]) -> Iterator[Encoded]:
        for texts in batches:
            rows = encode_batch([text.decode() for text in texts])
            yield Encoded(np.array([*chain.from_iterable(rows)], np.int64), np.array([*map(len, rows)], np.int64))

    return encode


class Interrupted(Exception):
    """What the tests raise in the middle."""


def interrupting(call: int, *, saved: bool) -> dict[str, Any]:
    """Arguments for `run` that stop it at the `call`-th batch.

    Args:
        call: from 1.
        saved: stop it by an error, after which what there is is recorded; else as a crash would, without that.
    """
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Interrupted

    def encode(texts: Sequence[str]) -> list[list[int]]:
        fail()
        return encode_batch(texts)

    return {"encode_batch": encode} if saved else {"on_progress": lambda tally: fail()}


def run(
    documents: Sequence[Document],
    out: Path,
    *,
    encode_batch: Callable[[Sequence[str]], list[list[int]]] = encode_batch,
    **changes: Any,
) -> Manifest:
    arguments: dict[str, Any] = {
        "encode": encoder(encode_batch),
        "tokenizer": BYTES,
        "out": out,
        "val_fraction": 0.3,
        "shard_tokens": 64,
        "source": {"name": "test"},
    }
    return prepare_shards(lambda: iter(documents), **arguments | changes)


def stories(n: int, *, seed: int = 0) -> list[Document]:
    """`n` documents of 0 to 60 letters, some of them in several pieces."""
    draw = random.Random(seed)
    made = []
    for i in range(n):
        for piece in range(draw.choice([1, 1, 1, 2, 3])):
            made.append(Document(f"{i}.{piece} " + "é" * draw.randrange(30), f"test:{i}", final=False))
        made[-1] = Document(made[-1].text, made[-1].origin)
    return made


def repeated(n: int) -> list[Document]:
    """`n` documents of which about a third are copies of others, and of one in three parts."""
    draw = random.Random(3)
    made: list[Document] = []
    for i in range(n):
        if made and draw.random() < 0.35:
            made.append(Document(draw.choice(made).text, f"x/test:{i}"))
        else:
            made.append(Document(f"text {i} " + "é" * draw.randrange(30), f"x/test:{i}"))
        if i % 20 == 7:
            made += [Document("part ", f"x/test:{i}a", final=False)] * 2 + [Document("end", f"x/test:{i}a")]
    return made


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def texts_of(directory: Path, split: str) -> list[str]:
    manifest = read_manifest(directory)
    stream = open_split(directory, manifest, split)
    ids = stream.read(0, stream.n_tokens)
    parts = np.split(ids, np.flatnonzero(ids == EOS) + 1)
    assert len(parts[-1]) == 0  # the last token ends a document
    return [bytes(part[:-1].tolist()).decode() for part in parts[:-1]]


def write_split(directory: Path, split: str, ids: list[int], *, shard_tokens: int, dtype: str = "uint16") -> Split:
    writer = SplitWriter(directory, split, dtype=dtype, shard_tokens=shard_tokens, state=SplitState())
    writer.add(np.array(ids, np.int64), documents=1, text_bytes=len(ids))
    return Split(writer.finish())


def make(
    directory: Path, *, train: list[int], val: list[int], shard_tokens: int = 4, vocab_size: int = 300
) -> Manifest:
    dtype = "uint16" if vocab_size <= 65536 else "uint32"
    splits = {
        name: write_split(directory, name, ids, shard_tokens=shard_tokens, dtype=dtype)
        for name, ids in {"train": train, "val": val}.items()
    }
    tokenizer = TokenizerFacts(kind="bytes", sha256="0" * 64, vocab_size=vocab_size, eos_id=vocab_size - 1)
    manifest = Manifest(tokenizer, splits, {"kind": "test", "files": ["a.txt"]}, Floor(1.5, 10, 1))
    write_manifest(directory, manifest)
    return manifest
