"""What the tests of other programs' shards share: each kind of file, and ways to put files down and to read them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foreign_helpers import llama, llmc, nanogpt, npy
from smalllm.data.foreign import describe, find_shards
from smalllm.data.manifest import Manifest, TokenizerFacts
from smalllm.data.shards import open_split

EOS = 256
Writer = Callable[[Sequence[int]], bytes]

KINDS: dict[str, tuple[Writer, str, int]] = {
    "nanogpt": (nanogpt, ".bin", 2**16),
    "llmc": (llmc, ".bin", 2**16),
    "llama": (llama, ".bin", 2**20),
    "uint16": (npy, ".npy", 2**16),
    "uint32": (functools.partial(npy, dtype="uint32"), ".npy", 2**20),
    "int32": (functools.partial(npy, dtype="int32"), ".npy", 2**20),
    "int32, other order": (functools.partial(npy, dtype="int32", order=">"), ".npy", 2**20),
    "uint16, version 2": (functools.partial(npy, version=2), ".npy", 2**16),
}


def facts(vocab_size: int = 257) -> TokenizerFacts:
    return TokenizerFacts("bytes", "ab" * 32, vocab_size, min(EOS, vocab_size - 1))


def described(
    folder: Path, *, vocab_size: int = 257, val_fraction: float = 0.0, val_files: Sequence[str] = ()
) -> Manifest:
    shards = find_shards(folder, val_files=val_files)
    return describe(shards, facts(vocab_size), directory=folder, val_fraction=val_fraction)


def ids_of(folder: Path, manifest: Manifest, split: str) -> list[int]:
    stream = open_split(folder, manifest, split)
    assert stream.n_tokens == manifest.splits[split].tokens
    return [int(i) for i in stream.read(0, stream.n_tokens)]


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files of the folder by their paths in it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
