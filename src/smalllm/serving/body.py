"""The body of a request: read within bounds of size and time, and parsed as strict JSON."""

import asyncio
import json
from collections import Counter
from typing import Any, NoReturn

from starlette.requests import Request

from smalllm.serving.errors import ClientGone, RequestError
from smalllm.serving.limits import Limits


async def read_json(request: Request, limits: Limits) -> Any:
    """What the body says.

    Raises:
        RequestError: too long, too slow, or not JSON.
        ClientGone: it ends in the middle.
    """
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        raise RequestError(415, f"Content-Encoding: {coding[:40]}: send the body as it is")
    try:
        async with asyncio.timeout(limits.body_s):
            body = await _read(request, limits.body_bytes)
    except TimeoutError as error:
        said = f"the body was not complete after {limits.body_s:g} s"
        raise RequestError(408, said, headers={"Connection": "close"}) from error
    return parse_json(body)


async def _read(request: Request, most: int) -> bytes:
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        raise _too_long(most)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_long(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_long(most: int) -> RequestError:
    return RequestError(
        413, f"the body is longer than {most:,} bytes; send less at once", headers={"Connection": "close"}
    )


def parse_json(body: bytes) -> Any:
    """JSON without NaN, Infinity and names that stand twice.

    Raises:
        RequestError: it is none.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_no_twins)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise RequestError(400, "the body is nested too deeply") from error
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twin[:60]!r} stands twice in one object")
    return found
