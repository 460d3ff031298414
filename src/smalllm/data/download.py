"""Fetch one file by URL into a cache, whole or not at all. Not here: data set hubs, resumed downloads."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from smalllm.errors import DataError

SCHEMES = ("https", "http", "file")
TIMEOUT_S = 60.0
_BLOCK_BYTES = 1 << 20


def fetch_url(url: str, *, sha256: str | None, cache: Path) -> Path:
    """The local copy of a file, fetched if the cache does not hold it yet.

    The copy keeps the name's ending, so that the readers know what it is. It appears under its name only when
    it is whole and, where a sha256 is given, right; a copy that is not right is fetched again.

    Args:
        url: an https, http or file address.
        sha256: what the file must have [64 hex digits]; None takes what comes.
        cache: the folder for the copies, created if absent.

    Raises:
        DataError: another kind of address, no connection, an error or half an answer, or another sha256.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise DataError(f"{url!r} is not an address smalllm can fetch; expected https://, http:// or file:///")
    file_name = Path(urllib.parse.unquote(parts.path)).name or "file"
    target = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{file_name}"
    if target.is_file() and (sha256 is None or _sha256(target) == sha256.lower()):
        return target
    temporary = _temporary_file(cache)
    try:
        _download(url, temporary)
        found = _sha256(temporary)
        if sha256 is not None and found != sha256.lower():
            raise DataError(
                f"{url} has the sha256 {found}, expected {sha256}: the file there is another one. "
                "Check --data.url, and --data.sha256 if the change is known and wanted"
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _temporary_file(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=cache, prefix=".download-")
    except OSError as error:
        raise DataError(f"nothing can be written to the cache {cache} ({error.strerror}); choose another") from error
    os.close(descriptor)
    return Path(name)


def _download(url: str, target: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "smalllm"})
    advice = "Check the address and the connection, or fetch the file yourself and use --data.source files"
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, open(target, "wb") as file:
            shutil.copyfileobj(response, file, _BLOCK_BYTES)
            expected = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{url} answered {error.code} {error.reason}, not a file. {advice}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} could not be fetched ({reason}). {advice}") from error
    # A connection that breaks off early looks like the end of the file to `read`.
    if expected is not None and target.stat().st_size != int(expected):
        raise DataError(f"{url} broke off after {target.stat().st_size:,} of {int(expected):,} bytes. Try again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
