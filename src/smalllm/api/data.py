"""Where text comes from, and what a data directory holds: what `prepare` and `train` need to know of data."""

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from smalllm import runtime
from smalllm.api import hub, stream
from smalllm.api.files import choose_files, file_facts, is_one_text
from smalllm.api.foreign import load_foreign
from smalllm.config import DataConfig, RunConfig, TokenizerConfig, field_names
from smalllm.data.document import Document, Reading
from smalllm.data.download import fetch_url
from smalllm.data.foreign import is_foreign
from smalllm.data.foreign_formats import SUFFIXES
from smalllm.data.manifest import PROGRESS_NAME, Manifest, read_manifest
from smalllm.data.parts import check_no_parts
from smalllm.data.progress import differences
from smalllm.data.shards import open_split
from smalllm.data.sources import expand_files, read_files, read_python_library, read_whole_text
from smalllm.data.stories import fingerprint, stories
from smalllm.data.windows import Windows, open_windows
from smalllm.errors import ConfigError, DataError, TokenizerError
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.recipes import load_recipe
from smalllm.reporting.words import shell
from smalllm.tokenizers import load_tokenizer

STORIES_SEED = 2024
_NOT_PREPARED = ("packing", "document_mask")  # how prepared tokens are read

Documents = Callable[..., Iterable[Document]]
"""Gives the documents of a source, each call from the first one; takes a `Reading` to keep up, or nothing."""


def data_path(config: RunConfig) -> Path:
    """Where the shards of a configuration are: `data.path`, else `data/RECIPE`."""
    return Path(config.data.path or f"data/{config.recipe}")


def open_source(
    data: DataConfig,
    *,
    part: tuple[int, int] | None = None,
    in_turn: bool = False,
    notice: Callable[[str], None] | None = None,
) -> tuple[Documents, dict[str, Any]]:
    """The documents of a configuration, and what the manifest says of the source.

    Args:
        data: of the configuration.
        part: (i, n) for the files i, i + n, i + 2n, … of `data.files`; None for all of the source.
        in_turn: download only the first file of the Hub now, and another one when its turn comes.
        notice: told of downloads.

    Raises:
        ConfigError: the source cannot be read by this version, or not in so many parts, or has no `val_files`.
        DataError: files are missing, or all of them are held out.
    """
    notice = notice or Silent().say
    if part is not None and (data.mode == "stream" or not data.files):
        what = "a stream" if data.mode == "stream" else data.source
        raise ConfigError(f"only files can be prepared in parts, not {what}: name them with --data.files")
    if data.mode == "stream":
        streamed = stream.open_text(data, notice)
        return lambda _=None: stream.head_documents(streamed, val_fraction=data.val_fraction), streamed.facts
    if data.files:
        return _open_files(data, *choose_files(data), part=part)
    if data.val_files and data.source in ("stories", "python"):
        raise ConfigError(f'data.val_files = {list(data.val_files)}: source = "{data.source}" holds out its own text')
    if data.source == "stories":
        facts = {"kind": "stories", "seed": STORIES_SEED, "stories": data.stories, "grammar": fingerprint()}
        return partial(_tell, data.stories), facts
    if data.source == "python":
        return lambda _=None: read_python_library(), {"kind": "python", "python": platform.python_version()}
    if data.source == "url":
        assert data.url is not None
        fetched = fetch_url(data.url, sha256=data.sha256, cache=runtime.cache_folder())
        documents, facts = _open_files(data, [fetched], expand_files(data.val_files))
        return documents, {**facts, "kind": "url", "url": data.url}
    if data.source == "hub":
        text = hub.find_text(data, notice)
        if text.by_datasets:
            return hub.documents_by_datasets(text, data), text.facts
        if in_turn and (text.choice.val or len(text.choice.train) > 1):  # one file may be a text that is cut by size
            return hub.documents_in_turn(text, data, notice), text.facts
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
        tokenizer = {f"tokenizer.{key}": getattr(config.tokenizer, key) for key in field_names(TokenizerConfig)}
        its = f"smalllm.override(config, {tokenizer})" if config.train.init_from else "config"
        return f"smalllm.prepare({its}, out=Path({str(data_path(config))!r}))  # in Python"
    words = ["smalllm", "prepare", name]
    for section in ("data", "tokenizer"):
        asked, given = getattr(config, section), getattr(recipe, section)
        for key in field_names(type(asked)):
            value = getattr(asked, key)
            if value != getattr(given, key) and key not in _NOT_PREPARED:
                option, values = f"--{section}.{key}", value if isinstance(value, tuple) else [str(value)]
                words += [f"{option}={value}"] if values and values[0].startswith("-") else [option, *values]
    if config.train.init_from != recipe.train.init_from:  # so that `prepare` names it in what comes next
        words += ["--train.init_from", str(config.train.init_from)]
    return shell(words)


def check_asked_text(data: DataConfig, manifest: Manifest, changes: Mapping[str, Any], *, where: Path) -> None:
    """Refuse text that was asked for and is not what our shards were made of; what only a recipe names gives way.

    Text that is not on this machine is not compared: shards may be used where their text is not.

    Raises:
        ConfigError: fields of `[data]` among `changes` disagree with the manifest.
    """
    if manifest.layouts is not None:  # another program's, which do not say
        return
    asked = {key: getattr(data, key) for key in ("val_fraction", "separator", "dedup") if f"data.{key}" in changes}
    asked = {key: value for key, value in asked.items() if value or manifest.source.get(key)}
    if data.files and {"data.files", "data.val_files"} & set(changes) and data.mode == "shards":
        with contextlib.suppress(DataError):
            asked |= open_source(data)[1]
    found = {key: manifest.source.get(key) for key in asked}
    if found != asked:
        raise ConfigError(
            f"{where}: was prepared from other text ({differences(found, asked)}); leave these options out to train on "
            "it, or prepare this text in another directory (--data.path)"
        )


def load_data(
    directory: Path,
    *,
    command: str,
    data: DataConfig | None = None,
    tokenizer: Callable[[], Tokenizer] | None = None,
    progress: Progress | None = None,
) -> tuple[Manifest, Tokenizer]:
    """The manifest and tokenizer of a data directory, which must belong together.

    A folder with shards of another program, which do not record their tokenizer, is read with the one that is given.

    Args:
        directory: written by `prepare`, or holding shards of another program.
        command: what would write it, for the error message.
        data: says what is held out of another program's shards; absent: the defaults.
        tokenizer: gives the one that made another program's shards; not called for ours.
        progress: told what another program's shards were taken for.

    Raises:
        DataError: not there, damaged, or not prepared to the end.
        TokenizerError: its tokenizer is not the one that made the shards, or nobody says which it was.
    """
    if not (directory / "manifest.json").exists():
        if is_foreign(directory):
            return load_foreign(directory, data or DataConfig(), tokenizer=tokenizer, progress=progress or Silent())
        if directory.is_file():
            raise DataError(f"{directory}: is a file; expected the folder that holds it")
        check_no_parts(directory)
        if (directory / PROGRESS_NAME).exists():
            read_manifest(directory)  # says how to finish it
        raise DataError(
            f"{directory}: no {' or '.join(SUFFIXES)} shards of another program and no prepared data here; "
            f"prepare it first:\n  {command}"
        )
    manifest = read_manifest(directory)
    own = load_tokenizer(directory / "tokenizer")
    if own.fingerprint != manifest.tokenizer.sha256:
        raise TokenizerError(
            f"{directory}: the shards were made with {manifest.tokenizer.kind} tokenizer {manifest.tokenizer.sha256}, "
            f"but tokenizer/ holds {own.kind} {own.fingerprint}; prepare the data again"
        )
    return manifest, own


def training_windows(config: RunConfig, data: Path, manifest: Manifest, *, progress: Progress) -> Windows:
    """The windows of the training split, as the configuration packs them; what is odd about them is told."""
    windows = open_windows(
        open_split(data, manifest, "train"),
        packing=config.data.packing,
        context_length=config.model.context_length,
        eos_id=manifest.tokenizer.eos_id,
    )
    if windows.notice:
        progress.say(windows.notice)
    if config.data.document_mask and manifest.splits["train"].documents == 1:
        progress.say("data.document_mask = true changes nothing: the training text is one document")
    return windows


def _tell(n_stories: int, reading: Reading | None = None) -> Iterator[Document]:
    for index, told in enumerate(stories(STORIES_SEED, n_stories)):
        if reading is not None:
            reading.total_bytes, reading.file_bytes = n_stories, index
        yield Document(text=told.text, origin=f"stories:{index}", log_prob=told.log_prob)


def _open_files(
    data: DataConfig, files: list[Path], val_files: list[Path], *, part: tuple[int, int] | None = None
) -> tuple[Documents, dict[str, Any]]:
    facts = file_facts(data, files, val_files)
    is_cut = is_one_text(data, files) and part is None and not val_files
    split = "train" if val_files else None
    if part is not None:
        task, n_tasks = part
        if n_tasks > len(files):
            raise ConfigError(f"{len(files)} files cannot be prepared in {n_tasks} parts; at most one part a file")
        files, val_files = files[task::n_tasks], val_files[task::n_tasks]
        facts |= {"task": task, "tasks": n_tasks}

    def read(reading: Reading | None = None) -> Iterable[Document]:
        if reading is not None:
            reading.total_bytes = sum(file.stat().st_size for file in (*files, *val_files))
        if is_cut:
            return read_whole_text(files[0], val_fraction=data.val_fraction, reading=reading)
        some = partial(read_files, separator=data.separator, text_column=data.text_column, reading=reading)
        return chain(some(files, split=split), some(val_files, split="val"))

    return read, facts
