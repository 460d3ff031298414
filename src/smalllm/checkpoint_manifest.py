"""What makes a checkpoint whole: its manifest, with the size and sha256 of every file."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smalllm.errors import CheckpointError, UnreadableError, VersionError

FORMAT, VERSION = "smalllm-checkpoint", 1
_DAMAGED = "the checkpoint is damaged: restore the file, or delete this checkpoint to use an older one"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint `path`.

    Raises:
        CheckpointError: missing or damaged.
        UnreadableError: it may be there and sound, but could not be read.
        VersionError: of a newer smalllm.
    """
    try:
        with reading(path / "manifest.json"):
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'manifest.json'}: damaged ({error}); {_DAMAGED}") from error
    if manifest.get("format") != FORMAT or not isinstance(version, int) or not isinstance(files, dict):
        found = f"format {manifest.get('format')!r} version {version!r}"
        raise CheckpointError(f"{path / 'manifest.json'}: is of {found}, expected {FORMAT!r}; {_DAMAGED}")
    if version > VERSION:
        raise VersionError(
            f"{path}: format {FORMAT!r} version {version}, this smalllm reads {FORMAT!r} up to version {VERSION}; "
            "update smalllm"
        )
    return dict(manifest)


def verify_file(path: Path, expected: Any) -> None:
    """Compare a file with what its manifest says.

    Raises:
        CheckpointError: missing, of another size or content.
        UnreadableError: it could not be read.
    """
    if not isinstance(expected, dict):
        raise CheckpointError(f"{path}: missing from its manifest; {_DAMAGED}")
    with reading(path):
        found_bytes = path.stat().st_size
        if found_bytes != expected.get("bytes"):
            said = f"has {found_bytes} bytes, its manifest says {expected.get('bytes')}"
            raise CheckpointError(f"{path}: {said}; {_DAMAGED}")
        if sha256_of(path) != expected.get("sha256"):
            raise CheckpointError(f"{path}: its sha256 is not the manifest's; {_DAMAGED}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell a file that is missing, which is damage, from one that the system did not let be read.

    Raises:
        CheckpointError: it is missing.
        UnreadableError: any other `OSError`.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {_DAMAGED}") from error
    except OSError as error:
        raise UnreadableError(
            f"{path}: could not be read ({error}), which does not say that it is damaged; check the disk and the "
            "permissions"
        ) from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file [64 hex digits]."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Wait until the disk has the file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
