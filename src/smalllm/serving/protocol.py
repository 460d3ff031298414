"""One connection: uvicorn's, with an end to everything that a client can leave open."""

import asyncio
import socket
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from smalllm.serving.errors import RequestError, error_body, error_response, to_json, too_busy
from smalllm.serving.limits import LIMITS, Limits

_MOST = 4
"""Times the connections allowed: so many are told that there are too many, and those beyond are cut."""

_SEND_BYTES = 128 << 10
"""That the system holds for a client who reads slowly."""


class Bounded(H11Protocol):
    """uvicorn's protocol within self.limits.

    - The headers of a request must be complete in time, counted from the connection or the response before: a byte now
      and then does not help. What still arrives of a body that was refused is part of the wait for the next request.
    - A client must read what is written to it, or the connection is cut, with what waits for it.
    - More connections than allowed are told so and closed.
    """

    limits = LIMITS
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _n_unwanted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that whatever waits to be read is noticed
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if len(self.connections) > _MOST * self.limits.connections:
            transport.abort()
        elif len(self.connections) > self.limits.connections:
            self.app = error_response(
                too_busy(f"{self.limits.connections} connections are open, as many as may be", closes=True)
            )
        self._expect(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        _cancel(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._n_unwanted += len(data)  # of a body that nobody asked for
            if self._n_unwanted > self.limits.body_bytes:
                self.transport.abort()
                return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect(None)

    def on_response_complete(self) -> None:
        """Wait for the next request, but not for ever."""
        self._expect(self.limits.idle_s + self.limits.head_s)
        super().on_response_complete()
        if not self.cycle.response_complete:  # the next request was there already
            self._expect(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        _cancel(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Tell that what came is no request."""
        cause = sys.exc_info()[1]  # what h11 found
        status = cause.error_status_hint if isinstance(cause, h11.RemoteProtocolError) else 400
        self._refuse(RequestError(status, "this is not HTTP/1.1, or its headers are too long"))

    def _expect(self, seconds: float | None) -> None:
        """Cut the connection after so long; None: not any more."""
        _cancel(self._head_timer)
        self._head_timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _refuse(self, error: RequestError) -> None:
        """Answer without the app, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = to_json(error_body(error))
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
        ]
        events: list[Any] = [h11.Response(status_code=error.status, headers=headers), h11.Data(data=body)]
        for event in (*events, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._expect(self.limits.write_s)  # what it does not read is not kept for it


def protocol_of(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol that keeps these limits; uvicorn makes one of it for each connection."""
    return type("Bounded", (Bounded,), {"limits": limits})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
