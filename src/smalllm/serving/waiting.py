"""Work for a client who may go away before it is done."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from smalllm.serving.errors import ClientGone, RequestError

Found = TypeVar("Found")


async def until_gone(receive: Receive) -> None:
    """Until the client has closed the connection; the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Found], *, limit_s: float) -> Found:
    """What work finds, which is cancelled when nobody waits for it any more, or when it takes too long.

    Raises:
        ClientGone: nobody waits.
        RequestError: it took too long.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(receive))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGone
        raise too_long(limit_s)
    finally:
        task.cancel()
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(task, gone, return_exceptions=True)


def too_long(limit_s: float) -> RequestError:
    """The answer to a request that took too long."""
    return RequestError(503, f"not finished within {limit_s:g} s; ask for fewer tokens at once", code="time_limit")
