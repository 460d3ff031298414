"""Which files of a Hugging Face data set hold a configuration and a split. Names only: no network, no file is
opened.

A data set is a list of file names. Its card (the YAML at the top of README.md) may say which of them make up a
configuration and its splits; without a card the names say it, as on the Hub: a folder is a configuration,
`train-00000-of-00004.parquet` a file of the split "train".
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smalllm.config import DataConfig
from smalllm.errors import DataError

READABLE = (".parquet", ".jsonl", ".ndjson", ".json", ".txt", ".text", ".tar.gz", ".tgz")
"""Endings that smalllm reads itself; text and JSON also with `.gz`."""
_FOREIGN = (".csv", ".tsv", ".arrow", ".zst", ".zip", ".tar", ".xz", ".bz2", ".avro", ".orc", ".h5", ".xml")
_NOT_DATA = {
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "license.txt",
    "requirements.txt",
}
# The words the Hub knows a split by, in file and folder names.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_NUMBERED = re.compile(r"(?:^|.*/)data/([\w.]+)-\d{5}-of-\d{5}[^/]*$")
_LISTED = 12

Splits = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to read.

    Attributes:
        train: file names, in order.
        val: file names of the set's own validation text; empty where it has none or none was asked for.
        foreign: smalllm cannot read them, but the `datasets` library may.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    foreign: bool


def choose_files(names: Iterable[str], card: Mapping[str, Any], data: DataConfig, *, where: str) -> Choice:
    """The files that `[data]` asks for.

    Args:
        names: every file of the data set, relative, with "/".
        card: the YAML of its README.md; empty if there is none.
        data: hub_files and hub_val_files, else hub_config, hub_split and val_split; shards.
        where: the data set, for messages.

    Raises:
        DataError: no such configuration, split or file, with the nearest names.
    """
    files = sorted(name for name in names if is_data(name))
    own_val = _matching(files, data.hub_val_files, where=where)
    if data.hub_files:
        train = _matching(files, data.hub_files, where=where)
    else:
        splits = find_splits(files, card, data.hub_config, where=where)
        train = _split(splits, data.hub_split, field="data.hub_split", where=where)
        if data.val_split is not None and not own_val:
            own_val = _split(splits, data.val_split, field="data.val_split", where=where)
    held_out = set(own_val)
    train = [name for name in train if name not in held_out][: data.shards]
    if not train:
        raise DataError(f"{where}: every file asked for is held out for validation; ask for others with data.hub_files")
    return Choice(tuple(train), tuple(own_val), foreign=not all(map(is_readable, [*train, *own_val])))


def is_data(name: str) -> bool:
    """Whether a file of a data set can hold documents, by its name alone."""
    parts = name.split("/")
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and parts[-1].lower() not in _NOT_DATA and (is_readable(name) or _plain(name).endswith(_FOREIGN))


def is_readable(name: str) -> bool:
    """Whether smalllm reads files of this name itself."""
    return _plain(name).endswith(READABLE)


def find_splits(files: Sequence[str], card: Mapping[str, Any], config: str | None, *, where: str) -> Splits:
    """The files of each split of a configuration; a file that names no split belongs to "train".

    Raises:
        DataError: no such configuration, or one must be chosen.
    """
    configs = card_configs(card)
    if configs:
        name = _chosen_config(config, configs, card, where=where)
        patterns = configs[name]
        if patterns:
            return {split: [f for f in files if _matches(f, globs)] for split, globs in patterns.items()}
        if len(configs) == 1:
            return _splits_by_name(files)
        config = name
    return _splits_by_name(_files_of(files, config, where=where))


def card_configs(card: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Configuration -> split -> patterns of file names, as a card lists them."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in card.get("configs") or []:
        listed = entry.get("data_files") or []
        if entry.get("data_dir") and not listed:
            listed = f"{entry['data_dir'].strip('/')}/**"
        patterns: dict[str, list[str]] = {}
        for item in [listed] if isinstance(listed, str | dict) else listed:
            split, paths = (item.get("split", "train"), item["path"]) if isinstance(item, dict) else ("train", item)
            patterns.setdefault(split, []).extend([paths] if isinstance(paths, str) else paths)
        found[str(entry["config_name"])] = patterns
    return found


def nearest(name: str, allowed: Iterable[str], *, lead: str = "it has") -> str:
    """`did you mean "x"? it has: …` for an error message."""
    allowed = sorted(set(allowed))
    by_lower = {choice.lower(): choice for choice in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    shown = ", ".join(allowed[:_LISTED]) + (f" and {len(allowed) - _LISTED:,} more" if len(allowed) > _LISTED else "")
    return (f'did you mean "{by_lower[close[0]]}"? ' if close else "") + f"{lead}: {shown or 'none'}"


def _plain(name: str) -> str:
    """The name as the readers see it: without `.gz`, unless an archive is packed."""
    lower = name.lower()
    return lower if lower.endswith((".tar.gz", ".parquet.gz")) else lower.removesuffix(".gz")


def _chosen_config(config: str | None, configs: Mapping[str, Any], card: Mapping[str, Any], *, where: str) -> str:
    if config in configs:
        return str(config)
    if config is not None:
        raise DataError(f"{where} has no configuration {config!r}; {nearest(config, configs)}. Set data.hub_config")
    marked = [str(entry["config_name"]) for entry in card["configs"] if entry.get("default")]
    default = marked or [name for name in configs if name == "default"] or list(configs)
    if len(default) > 1:
        raise DataError(f"{where} has several configurations; choose one with data.hub_config; {nearest('', configs)}")
    return default[0]


def _files_of(files: Sequence[str], config: str | None, *, where: str) -> list[str]:
    """The files below the folder that bears the configuration's name, `sample/10BT` for sample-10BT."""
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    if config is None:
        top = {folder for folder in folders if "/" not in folder and split_of(f"{folder}/") is None}
        in_data = any(_NUMBERED.match(name) for name in files)
        if len(top - {"data"}) > 1 and not in_data and not any("/" not in name for name in files):
            raise DataError(f"{where} has several configurations; choose one with data.hub_config; {nearest('', top)}")
        return list(files)
    wanted = config.replace("/", "-").lower()
    found = [f for f in folders if f"-{f.replace('/', '-').lower()}".endswith(f"-{wanted}")]
    if not found:
        if config == "default":
            return list(files)
        named = {folder.replace("/", "-") for folder in folders} or {"default"}
        raise DataError(f"{where} has no configuration {config!r}; {nearest(config, named)}. Set data.hub_config")
    shortest = min(found, key=len)
    return [name for name in files if name.startswith(shortest + "/")]


def _splits_by_name(files: Sequence[str]) -> Splits:
    """Splits as the Hub finds them: `data/SPLIT-00000-of-00004…`, else split words in names, else all is train."""
    numbered = [(match[1], name) for name in files if (match := _NUMBERED.match(name))]
    worded = [(split, name) for name in _one_family(files) if (split := split_of(name)) is not None]
    splits: Splits = {}
    for split, name in numbered or worded or [("train", name) for name in _one_family(files)]:
        splits.setdefault(split, []).append(name)
    return splits


def _one_family(files: Sequence[str]) -> list[str]:
    """The files with the commonest ending: a data set often comes in several forms of the same text."""
    families = Counter(map(_family, files))
    most = max(families.values(), default=0)
    chosen = min(
        (f for f, n in families.items() if n == most), key=lambda f: (not f.endswith(".parquet"), f), default=""
    )
    return [name for name in files if _family(name) == chosen]


def _family(name: str) -> str:
    return next((ending for ending in (*READABLE, *_FOREIGN) if _plain(name).endswith(ending)), "")


def split_of(name: str) -> str | None:
    """The split whose word stands in the file's name, else in the nearest folder's."""
    for part in reversed(name.lower().split("/")):
        words = set(re.split(r"[ ._\-0-9]+", part))
        for split, known in _SPLIT_WORDS.items():
            if words.intersection(known):
                return split
    return None


def _split(splits: Mapping[str, list[str]], asked: str, *, field: str, where: str) -> list[str]:
    same = next((split for split, words in _SPLIT_WORDS.items() if asked in words), asked)
    for name in (asked, same, *_SPLIT_WORDS.get(same, ())):
        if splits.get(name):
            return list(splits[name])
    there = [split for split, found in splits.items() if found]
    raise DataError(f"{where} has no files for the split {asked!r}; {nearest(asked, there)}. Set {field}")


def _matching(files: Sequence[str], patterns: Sequence[str], *, where: str) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        matched = [name for name in files if _matches(name, [pattern])]
        if not matched:
            raise DataError(f"{where} has no data file {pattern!r}; {nearest(pattern, files)}")
        found += [name for name in matched if name not in found]
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(_regex(pattern), name) for pattern in patterns)


def _regex(pattern: str) -> str:
    """A glob in which `*` stays within a folder and `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    said = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        said.get(part, part if part.startswith("[") and part.endswith("]") else re.escape(part)) for part in parts
    )
