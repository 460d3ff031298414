"""Data sets as they lie on the Hugging Face Hub: on the Hub, in a local folder of the same layout, or in the
Hub's cache.

Files come one by one and only when they are asked for; what has come stays in the Hub's own cache (`HF_HOME`),
so an interrupted download goes on with the file it was at. Which files to ask for is `hub_layout.py`.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smalllm.data.hub_layout import nearest
from smalllm.errors import DataError

ATTEMPTS = 5
FIRST_WAIT_S = 1.0
"""Before the second attempt; doubled before each further one."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WELL_KNOWN = (
    "roneneldan/TinyStories", "wikimedia/wikipedia", "HuggingFaceFW/fineweb-edu", "HuggingFaceFW/fineweb",
    "Salesforce/wikitext", "allenai/c4", "Skylion007/openwebtext",
)  # fmt: skip
_TRANSIENT = (408, 425, 429)
_WAY_OUT = (
    "Check the connection; or give a folder that holds the data set's files as on the Hub (--data.hub_name FOLDER), "
    "or a cache that holds them (the environment variable HF_HOME)"
)

Result = TypeVar("Result")
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HubSet:
    """A data set's files and where they are.

    Attributes:
        name: for messages and manifests; never an absolute path.
        sizes: file name -> bytes; every file there is.
        folder: where they lie, if they are on this machine.
        repo_id: its name on the Hub, for those that are not.
        revision: the commit they are of, if it is known.
    """

    name: str
    sizes: Mapping[str, int]
    folder: Path | None = None
    repo_id: str | None = None
    revision: str | None = None


def open_set(name: str, *, revision: str | None, notice: Notice, first_wait_s: float = FIRST_WAIT_S) -> HubSet:
    """Look a data set up: a folder of that name, else the Hub, else the Hub's cache.

    Args:
        name: a folder, or a name on the Hub such as roneneldan/TinyStories.
        revision: commit, branch or tag; None: main.
        notice: told when the Hub cannot be reached and the cache is used instead.
        first_wait_s: seconds before the second attempt.

    Raises:
        DataError: no such data set, one that must be asked for, or no connection and nothing in the cache.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return HubSet(folder.resolve().name, _sizes_in(folder), folder)
    if not _HUB_NAME.fullmatch(name):
        raise DataError(
            f"data.hub_name = {name!r}: no such folder here, and not a name on the Hugging Face Hub, which looks like "
            "roneneldan/TinyStories"
        )
    from huggingface_hub import HfApi, constants  # constants by name: it is no attribute until someone imports it

    def look() -> Any:
        return HfApi().dataset_info(name, revision=revision, files_metadata=True, timeout=30.0)

    if constants.HF_HUB_OFFLINE:
        return _from_cache(name, revision, reason="HF_HUB_OFFLINE is set")
    try:
        info = _try(look, what=f"the list of files of {name}", notice=notice, first_wait_s=first_wait_s)
    except _UnreachableError as error:
        found = _from_cache(name, revision, reason=str(error))
        notice(f"{error}; using the {len(found.sizes)} files of {name} in the cache")
        return found
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    return HubSet(name, sizes, repo_id=name, revision=info.sha)


def fetch_file(hub: HubSet, name: str, *, notice: Notice, first_wait_s: float = FIRST_WAIT_S) -> Path:
    """The local copy of one file of a data set, downloaded if it is not there yet.

    Raises:
        DataError: it could not be had; what was tried and how often.
    """
    if hub.folder is not None:
        return hub.folder / name
    assert hub.repo_id is not None
    return fetch_from_hub(
        hub.repo_id, name, repo_type="dataset", revision=hub.revision, notice=notice, first_wait_s=first_wait_s
    )


def fetch_from_hub(
    repo_id: str,
    name: str,
    *,
    repo_type: str,
    revision: str | None = None,
    notice: Notice,
    first_wait_s: float = FIRST_WAIT_S,
) -> Path:
    """One file of a repository on the Hub, by way of the Hub's cache.

    Raises:
        DataError: it could not be had; what was tried and how often.
    """
    import huggingface_hub

    def download() -> Path:
        return Path(huggingface_hub.hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision))

    try:
        return _try(download, what=f"{name} of {repo_id}", notice=notice, first_wait_s=first_wait_s)
    except _UnreachableError as error:
        raise DataError(f"{error}. What has come is kept: run the same command again. {_WAY_OUT}") from error


def read_card(hub: HubSet, *, notice: Notice) -> dict[str, Any]:
    """The YAML at the top of the data set's README.md; empty if it has none.

    Raises:
        DataError: it could not be downloaded, or is not YAML.
    """
    if "README.md" not in hub.sizes:
        return {}
    import huggingface_hub

    path = fetch_file(hub, "README.md", notice=notice)
    try:
        return dict(huggingface_hub.metadata_load(path) or {})
    except Exception as error:  # PyYAML's own errors, and ValueError
        raise DataError(f"{hub.name}: the YAML at the top of its README.md cannot be read ({error})") from error


class _UnreachableError(Exception):
    """Every attempt failed for a reason that may pass."""


def _try(action: Callable[[], Result], *, what: str, notice: Notice, first_wait_s: float) -> Result:
    """Call until it works, waiting longer each time; give up at once on what waiting cannot mend."""
    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:  # httpx, urllib3, ssl, OSError, huggingface_hub: each layer has its own
            cause = _cause(error)
            _raise_if_final(cause, what)
            reason = _first_line(cause)
        if attempt < ATTEMPTS:
            wait_s = first_wait_s * 2 ** (attempt - 1)
            notice(f"{what}: attempt {attempt} of {ATTEMPTS} failed ({reason}); trying again in {wait_s:g} s")
            time.sleep(wait_s)
    raise _UnreachableError(f"the Hugging Face Hub did not give {what} in {ATTEMPTS} attempts ({reason})")


def _raise_if_final(error: Exception, what: str) -> None:
    from huggingface_hub import errors

    repo = what.rpartition(" of ")[2]
    if isinstance(error, errors.GatedRepoError):
        raise DataError(
            f"{repo} is gated: its owner asks for consent. Accept its conditions on "
            f"its page of https://huggingface.co, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise DataError(f"{repo} has no such revision; set data.hub_revision to a commit, branch or tag") from error
    if isinstance(error, errors.RepositoryNotFoundError):
        raise DataError(
            f"the Hugging Face Hub has no {repo}, or it is private; "
            f"{nearest(repo, _WELL_KNOWN, lead='well known are')}. "
            "Check the name; for a private one log in with `hf auth login`"
        ) from error
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        raise DataError(f"the Hugging Face Hub has no {what}; the set has changed, run the command again") from error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None and 400 <= status < 500 and status not in _TRANSIENT:
        raise DataError(f"the Hugging Face Hub refused {what}: {_first_line(error)}") from error
    if isinstance(error, errors.HFValidationError):
        raise DataError(f"{what}: {_first_line(error)}") from error
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        raise DataError(f"{what} could not be written to the Hub's cache ({error.strerror or error})") from error


def _cause(error: Exception) -> Exception:
    """What went wrong on the way, where the library only says that the file is not in the cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _from_cache(name: str, revision: str | None, *, reason: str) -> HubSet:
    """What the Hub's cache holds of a data set, perhaps not all of its files."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    pointer = home / "refs" / (revision or "main")
    commit = pointer.read_text().strip() if pointer.is_file() else revision or ""
    folder = home / "snapshots" / commit
    if not commit or not folder.is_dir():
        newest = sorted((home / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
        if revision is not None or not newest:
            raise DataError(f"{reason}, and the cache {home.parent} holds nothing of {name}. {_WAY_OUT}")
        folder = newest[-1]
    return HubSet(name, _sizes_in(folder), folder, name, folder.name)


def _sizes_in(folder: Path) -> dict[str, int]:
    """Every file below a folder, hidden ones aside, with its size."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    shown = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}
    return {name: path.stat().st_size for name, path in sorted(shown.items())}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
