"""Preparing data on several machines: a writer for datatrove's pipelines, and the merge of the parts tasks wrote."""

from pathlib import Path

from smalllm.api.foreign import tokenizer_facts
from smalllm.config import DataConfig
from smalllm.data.cluster import ShardWriter
from smalllm.data.directory import full_disk_told, sole_writer
from smalllm.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from smalllm.data.parts import Part, merge_shards, read_parts, remove_parts
from smalllm.errors import ConfigError, DataError, TokenizerError
from smalllm.tokenizers import load_tokenizer, save_tokenizer
from smalllm.tokenizers.workers import encode_here

_DEFAULTS = DataConfig()


def shard_writer(
    out: Path | str,
    *,
    tokenizer: Path | str,
    source: str,
    val_fraction: float = _DEFAULTS.val_fraction,
    shard_tokens: int = _DEFAULTS.shard_tokens,
) -> ShardWriter:
    """The last step of a datatrove pipeline: writes what comes to it as shards, a part of `out` for each task.

    `merge_parts(out)` makes the parts one data directory when all tasks are done. With one task, the shards are those
    that `prepare` would make of the same documents; with more, the documents and their splits are the same.

    Args:
        out: the data directory, on a file system that all machines share.
        tokenizer: a folder with a tokenizer, such as `tokenizer/` in a data directory; shared as well.
        source: names the text, for the manifest.
        val_fraction: share of the documents that go to validation, by the hash of their text.
        shard_tokens: tokens per file, at most.

    Raises:
        ConfigError: datatrove is not installed, or a number is out of range.
        TokenizerError: the folder holds no tokenizer.
    """
    try:
        from datatrove.utils.stats import Stats
    except ImportError as error:
        raise ConfigError(
            f"datatrove, which runs tasks on many machines, is not installed ({error}); install it: "
            "pip install 'smalllm[cluster]'"
        ) from error
    folder = Path(tokenizer).absolute()
    wrong = []
    if not 0 < val_fraction < 1:
        wrong.append(f"val_fraction is {val_fraction}; expected more than 0 and less than 1")
    if shard_tokens < 1:
        wrong.append(f"shard_tokens is {shard_tokens}; expected at least 1")
    if wrong:
        raise ConfigError(wrong)
    return ShardWriter(
        out=Path(out).absolute(),  # tasks may start in another folder
        tokenizer=folder,
        facts=tokenizer_facts(load_tokenizer(folder)),
        load=load_tokenizer,
        encode=encode_here,
        val_fraction=val_fraction,
        shard_tokens=shard_tokens,
        source=source,
        stats=Stats("smalllm shards"),
    )


def merge_parts(out: Path | str) -> Manifest:
    """Make the parts in `out` one data directory, which `train` reads like any other.

    Every shard is read once, to check it, and renamed. Running it again continues after a kill, and returns at once
    when everything is done.

    Args:
        out: where the tasks wrote.

    Raises:
        DataError: tasks are missing or disagree, a file was altered, or the directory holds other data.
        TokenizerError: the tokenizer is missing, or is not the one of the parts.
    """
    out = Path(out)
    if (out / MANIFEST_NAME).exists():
        manifest = read_manifest(out)
        if "tasks" not in manifest.source:
            raise DataError(f"{out}: holds data that was not prepared in parts; there is nothing to merge.")
        remove_parts(out)  # an earlier call was stopped before it could do this
        return manifest
    read_parts(out)  # before a lock is written to a directory that may not be there
    with full_disk_told(out), sole_writer(out):
        parts = read_parts(out)
        _place_tokenizer(out, parts[0])
        return merge_shards(out, parts)


def _place_tokenizer(out: Path, first: Part) -> None:
    """Write the tokenizer of the parts to `out`, unless it is there."""
    target = out / "tokenizer"
    folder = target if target.exists() else first.path / "tokenizer"
    tokenizer, expected = load_tokenizer(folder), first.manifest.tokenizer
    if tokenizer_facts(tokenizer) != expected:
        raise TokenizerError(
            f"{folder}: holds {tokenizer.kind} {tokenizer.fingerprint}, but the parts were made with {expected.kind} "
            f"{expected.sha256}. Put that one there."
        )
    if folder != target:
        temporary = out / "tokenizer.tmp"  # so that what stands there is whole
        save_tokenizer(tokenizer, temporary)
        temporary.rename(target)
