"""Where the questions of a task come from: the Hugging Face Hub, a URL, a folder or a file; and its records.

Not here: what a record means (tasks/).
"""

import fnmatch
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smalllm.data.download import SCHEMES, fetch_url
from smalllm.data.hub import fetch_file, open_set
from smalllm.data.hub_layout import split_of
from smalllm.data.text_files import open_data
from smalllm.errors import DataError

Record = dict[str, Any]
Notice = Callable[[str], None]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[\w-]+")
_LOCAL = ("*.jsonl", "*.jsonl.gz", "*.parquet", "*.json")


def find_files(
    name: str, *, given: str | None, address: str, patterns: Sequence[str], cache: Path, notice: Notice
) -> list[Path]:
    """The files of a task on this machine, fetched where they are not here yet.

    Args:
        name: of the task.
        given: a file, a folder, a URL or a data set of the Hub that the user named; None: `address`.
        address: where the task's own questions are.
        patterns: of file names in a folder laid out as on the Hub.
        cache: the folder for what comes by URL.
        notice: told of downloads.

    Raises:
        DataError: nothing there, or no way to it; the message says what to fetch and how to give it.
    """
    where = given or address
    if where.partition(":")[0] in SCHEMES:
        url, _, sha256 = where.partition("#sha256=")
        return [_told(name, address, patterns, lambda: fetch_url(url, sha256=sha256 or None, cache=cache))]
    path = Path(os.path.expanduser(where))
    if given is not None and path.is_file():
        return [path]
    if not path.is_dir() and not (_HUB_NAME.fullmatch(where)):
        raise DataError(f"{name}={where}: no such file or folder here; {_advice(name, address, patterns)}")
    return _told(name, address, patterns, lambda: _from_set(where, patterns, notice))


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Every record of a JSON Lines, JSON or Parquet file, and where it stands, for messages.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object; and which.
    """
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path)
        return
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _read_json(path)
        return
    with open_data(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _record(line, f"{path}:{number}")


def text_of(record: Record, key: str, where: str) -> str:
    """The text under a key of a record.

    Raises:
        DataError: there is none; the message names the keys there are.
    """
    value = record.get(key)
    if isinstance(value, str):
        return value
    found = f"its {key!r} is {value!r:.60}" if key in record else f"it has only {', '.join(map(repr, record))}"
    raise DataError(f"{where}: expected text under {key!r}, but {found}; correct or remove the record")


def answer_of(value: object, allowed: Sequence[str], where: str) -> int:
    """Which of the allowed answers a record names.

    Raises:
        DataError: none of them.
    """
    if not isinstance(value, bool) and str(value) in allowed:
        return list(allowed).index(str(value))
    raise DataError(
        f"{where}: the answer is {value!r:.60}; expected one of {', '.join(allowed)}. "
        "A set without answers cannot be scored"
    )


def _from_set(where: str, patterns: Sequence[str], notice: Notice) -> list[Path]:
    hub = open_set(where, revision=None, notice=notice)
    names = _first_matches(hub.sizes, patterns)
    if not names and hub.repo_id is None:  # a folder of the user's own may call its files what it likes
        names = _first_matches(hub.sizes, _LOCAL)
        if splits := [name for name in names if split_of(name)]:  # but train is not taken for test
            raise DataError(
                f"{hub.name}: has no file like {' or '.join(patterns)}; it has {', '.join(splits[:3])}. Give the file "
                "itself if it holds the questions"
            )
    if not names:
        raise DataError(f"{hub.name}: has no file like {' or '.join(patterns)}")
    return [fetch_file(hub, name, notice=notice) for name in names]


def _first_matches(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match the first pattern that any name matches."""
    matched = (sorted(name for name in names if fnmatch.fnmatch(name, pattern)) for pattern in patterns)
    return next(filter(None, matched), [])


def _told(name: str, address: str, patterns: Sequence[str], get: Callable[[], Any]) -> Any:
    """What `get` returns; if it fails, the reason and what the user can do."""
    try:
        return get()
    except DataError as error:
        reason = re.split(r"\. (?:What|Check|Try)", str(error))[0].rstrip(".")
        advice = _advice(name, address, patterns)
        raise DataError(f"{name}: {reason}. {advice[0].upper()}{advice[1:]}") from error


def _advice(name: str, address: str, patterns: Sequence[str]) -> str:
    url, _, sha256 = address.partition("#sha256=")
    what = f"{url} (sha256 {sha256})" if sha256 else f"https://huggingface.co/datasets/{address} ({patterns[0]})"
    return f"fetch {what} on a machine with a connection, and give the file or folder: --tasks {name}=PATH"


def _record(line: bytes, where: str) -> Record:
    try:
        value = json.loads(line.decode("utf-8-sig" if where.endswith(":1") else "utf-8"))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise DataError(f"{where} is not JSON in UTF-8 ({error}); expected one object per line. Correct it") from error
    return _checked(value, where)


def _checked(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, not a JSON object; correct or remove it")
    return value


def _read_json(path: Path) -> Iterator[tuple[str, Record]]:
    with open_data(path) as file:
        try:
            values = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON in UTF-8 ({error}); correct it") from error
    if not isinstance(values, list):
        raise DataError(f"{path} holds {type(values).__name__}; expected a list of objects, or JSON Lines in a .jsonl")
    for number, value in enumerate(values, start=1):
        yield f"{path}, entry {number}", _checked(value, f"{path}, entry {number}")


def _read_parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a whole Parquet file ({error}); fetch or write it again") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row
