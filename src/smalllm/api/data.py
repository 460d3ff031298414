"""`prepare`: from a source to shards. Wires sources, tokenizers and the shard writer together."""

import os
import platform
import shlex
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from smalllm.api import hub, stream
from smalllm.config import DataConfig, RunConfig, field_names
from smalllm.data.document import Document
from smalllm.data.download import fetch_url
from smalllm.data.manifest import Manifest, TokenizerFacts, read_manifest
from smalllm.data.pieces import assign_splits
from smalllm.data.prepare import prepare_shards
from smalllm.data.sources import expand_files, read_files, read_python_library, read_whole_text
from smalllm.data.stories import fingerprint, stories
from smalllm.errors import ConfigError, DataError, TokenizerError
from smalllm.problems import check
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.recipes import load_recipe
from smalllm.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer

STORIES_SEED = 2024


def data_path(config: RunConfig) -> Path:
    """Where the shards of a configuration are: `data.path`, else `data/RECIPE`."""
    return Path(config.data.path or f"data/{config.recipe}")


def prepare(config: RunConfig, *, out: Path | None = None, progress: Progress | None = None) -> Manifest:
    """Turn text into a tokenizer and memory-mapped shards.

    Running it again continues after a kill, and returns at once when everything is there.

    Args:
        config: its `[data]` and `[tokenizer]` say what to read.
        out: the data directory; absent: `data_path(config)`.
        progress: who is told how it goes.

    Raises:
        ConfigError: the configuration has problems.
        DataError: the text or the directory cannot be used.
        TokenizerError: the tokenizer cannot be built from this text.
    """
    check(config)
    out, progress = out or data_path(config), progress or Silent()
    documents, source = open_source(config.data, notice=progress.say)
    tokenizer = _tokenizer(config, out, documents, progress)
    progress.begin(f"preparing {out}", total=0)
    try:
        return prepare_shards(
            documents,
            encode_batch=tokenizer.encode_batch,
            tokenizer=tokenizer_facts(tokenizer),
            out=out,
            val_fraction=config.data.val_fraction,
            shard_tokens=config.data.shard_tokens,
            source=source,
            on_progress=lambda n_documents, text_bytes, tokens: progress.advance(
                n_documents, f"{text_bytes / 1e6:.1f} MB, {tokens:,} tokens"
            ),
        )
    finally:
        progress.end()


def tokenizer_facts(tokenizer: Tokenizer) -> TokenizerFacts:
    """What a manifest says of a tokenizer."""
    return TokenizerFacts(
        kind=tokenizer.kind,
        sha256=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )


def open_source(
    data: DataConfig, *, notice: Callable[[str], None] | None = None
) -> tuple[Callable[[], Iterable[Document]], dict[str, Any]]:
    """The documents of a configuration, each call from the first one, and what the manifest says of the source.

    Args:
        data: its fields.
        notice: told of downloads.

    Raises:
        ConfigError: the source cannot be read by this version.
        DataError: files are missing.
    """
    if data.mode == "stream":
        streamed = stream.open_text(data, notice or Silent().say)
        return lambda: stream.head_documents(streamed, val_fraction=data.val_fraction), streamed.facts
    if data.files:
        return _open_files(data, expand_files(data.files), expand_files(data.val_files))
    if data.source == "stories":
        facts = {"kind": "stories", "seed": STORIES_SEED, "stories": data.stories, "grammar": fingerprint()}
        return lambda: _tell(data.stories), facts
    if data.source == "python":
        return read_python_library, {"kind": "python", "python": platform.python_version()}
    if data.source == "url":
        assert data.url is not None
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smalllm"
        fetched = fetch_url(data.url, sha256=data.sha256, cache=cache)
        documents, facts = _open_files(data, [fetched], expand_files(data.val_files))
        return documents, {**facts, "kind": "url", "url": data.url}
    if data.source == "hub":
        notice = notice or Silent().say
        text = hub.find_text(data, notice)
        if text.by_datasets:
            return hub.documents_by_datasets(text, data), text.facts
        documents, _ = _open_files(data, *hub.fetch_all(text, notice))
        return documents, text.facts
    raise ConfigError("data.files is empty: source = \"files\" needs some, for example --data.files 'texts/*.txt'")


def prepare_command(config: RunConfig, *, name: str) -> str:
    """What the user types to prepare the data of a configuration, ready for a shell.

    Args:
        config: the recipe with the user's changes.
        name: the recipe's name or the path of its file.
    """
    try:
        recipe = load_recipe(name)
    except ConfigError:  # a configuration that was built in Python has no file
        return f"smalllm.prepare(config, out=Path({str(data_path(config))!r}))  # in Python"
    words = ["smalllm", "prepare", name]
    for section in ("data", "tokenizer"):
        asked, given = getattr(config, section), getattr(recipe, section)
        for key in field_names(type(asked)):
            value = getattr(asked, key)
            if value != getattr(given, key):
                words += [f"--{section}.{key}", *(value if isinstance(value, tuple) else [str(value)])]
    return " ".join(map(_quoted, words))


def load_data(directory: Path, *, command: str) -> tuple[Manifest, Tokenizer]:
    """The manifest and tokenizer of a data directory, which must belong together.

    Args:
        directory: written by `prepare`.
        command: what would write it, for the error message.

    Raises:
        DataError: not there, damaged, or not prepared to the end.
        TokenizerError: its tokenizer is not the one that made the shards.
    """
    if not (directory / "manifest.json").exists():
        raise DataError(f"{directory}: no prepared data here; prepare it first:\n  {command}")
    manifest = read_manifest(directory)
    tokenizer = load_tokenizer(directory / "tokenizer")
    if tokenizer.fingerprint != manifest.tokenizer.sha256:
        raise TokenizerError(
            f"{directory}: the shards were made with {manifest.tokenizer.kind} tokenizer {manifest.tokenizer.sha256}, "
            f"but tokenizer/ holds {tokenizer.kind} {tokenizer.fingerprint}; prepare the data again"
        )
    return manifest, tokenizer


def _quoted(word: str) -> str:
    """A word for the shell; one with newlines as bash and zsh write it, so that the command stays on its line."""
    if word.isprintable():
        return shlex.quote(word)
    plain = (c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in c.encode()) for c in word)
    return f"$'{''.join(plain)}'"


def _training_texts(documents: Iterable[Document], *, val_fraction: float) -> Iterator[str]:
    """What a tokenizer may learn from: everything but the held-out documents."""
    pieces = assign_splits(documents, val_fraction=val_fraction, split=None)
    return (piece.document.text for piece in pieces if piece.split == "train")


def _tell(n_stories: int) -> Iterator[Document]:
    for index, told in enumerate(stories(STORIES_SEED, n_stories)):
        yield Document(text=told.text, origin=f"stories:{index}", log_prob=told.log_prob)


def _open_files(
    data: DataConfig, files: list[Path], val_files: list[Path]
) -> tuple[Callable[[], Iterable[Document]], dict[str, Any]]:
    facts: dict[str, Any] = {"kind": "files", "files": [_file_facts(f) for f in files]}
    if data.separator is not None:
        facts["separator"] = data.separator
    if val_files:
        facts["val_files"] = [_file_facts(f) for f in val_files]
    is_one_text = len(files) == 1 and not files[0].name.endswith(hub.RECORD_SUFFIXES) and data.separator is None
    if is_one_text and not val_files:
        return lambda: read_whole_text(files[0], val_fraction=data.val_fraction), facts

    def read(some: list[Path], split: str | None) -> Iterable[Document]:
        return read_files(some, separator=data.separator, text_column=data.text_column, split=split)

    if val_files:
        return lambda: chain(read(files, "train"), read(val_files, "val")), facts
    return lambda: read(files, None), facts


def _file_facts(path: Path) -> dict[str, Any]:
    """Name and size: enough to notice that a file changed between two calls, and the same on every machine."""
    return {"name": path.name, "bytes": path.stat().st_size}


def _tokenizer(
    config: RunConfig, out: Path, documents: Callable[[], Iterable[Document]], progress: Progress
) -> Tokenizer:
    """The tokenizer of an interrupted preparation, else a new one, saved before any shard is."""
    saved = out / "tokenizer"
    if (out / ".prepare.json").exists() and saved.exists():
        return load_tokenizer(saved)
    asked = config.tokenizer
    path = hub.tokenizer_path(asked.kind, asked.path, progress.say)
    if path is None and asked.kind in ("sentencepiece", "huggingface"):
        progress.say(f"training a {asked.kind} tokenizer of {asked.vocab_size:,} tokens on the text")
    tokenizer = build_tokenizer(
        asked.kind,
        vocab_size=asked.vocab_size,
        path=path,
        texts=lambda: _training_texts(documents(), val_fraction=config.data.val_fraction),
    )
    if not (out / "manifest.json").exists():  # a finished directory is compared, not changed
        save_tokenizer(tokenizer, saved)
    return tokenizer
