"""What stands before every route: who may ask, from which page, with how long a head; and what is told of it."""

import hmac
import time
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalllm.serving.errors import ClientGone, RequestError, error_response
from smalllm.serving.limits import Limits
from smalllm.serving.metrics import HttpCounts

Log = Callable[[str], None]
_GONE = 499  # nobody sees it but the log
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}


class Guard:
    """A layer around the app.

    Without a token the server is for programs and pages of this machine: a page of elsewhere must neither read it by a
    name that was made to mean this machine (Host), nor send to it (Origin). With a token neither is of use to it.

    Args:
        app: what is guarded.
        token: that every request must bring, but those for `free`; None: none.
        free: paths without a token.
        known: paths that are counted by their names.
        hosts: names of this server; empty: any.
        limits: of the head.
        counts: of all requests.
        log: told a line for each request; None: nobody.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        free: Collection[str],
        known: Collection[str],
        hosts: Collection[str],
        limits: Limits,
        counts: HttpCounts,
        log: Log | None,
    ) -> None:
        self._app, self._free, self._known, self._hosts, self._limits = app, free, known, hosts, limits
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._counts, self._log = counts, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.monotonic(), _GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        self._counts.n_active += 1
        try:
            problem = self._problem(scope)
            if problem is None:
                await self._app(scope, receive, watched)
            else:
                await error_response(problem)(scope, receive, watched)
        except ClientGone:
            pass
        except Exception:
            status = 500
            raise
        finally:
            self._counts.n_active -= 1
            self._note(scope, status, time.monotonic() - start_s)

    def _problem(self, scope: Scope) -> RequestError | None:
        lines, limits = scope["headers"], self._limits
        n_bytes = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) + 4 for k, v in lines)
        if len(lines) > limits.header_lines or n_bytes > limits.header_bytes:
            said = f"at most {limits.header_lines} headers, of {limits.header_bytes:,} bytes together"
            return RequestError(431, said, headers={"Connection": "close"})
        headers = Headers(scope=scope)
        if self._hosts and (foreign := self._foreign(headers)):
            return RequestError(403, f"{foreign}; without a token this server is for this machine only")
        if self._expected is None or scope["path"] in self._free:
            return None
        given = [value for name, value in lines if name == b"authorization"]
        if len(given) == 1 and hmac.compare_digest(given[0], self._expected):
            return None
        said = "the token is wrong" if given else "a token is needed"
        return RequestError(
            401,
            f"{said}: send the header Authorization: Bearer TOKEN, with the one that the server was started with",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _foreign(self, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name_of(hosts[0]) not in self._hosts:
            return f"the Host header must be one of {', '.join(sorted(self._hosts))}"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            return "a page of another origin cannot ask"
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path, method = scope["path"], scope["method"]
        known = path if path in self._known else "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
        method = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._counts.requests[known, method, status] += 1
        self._counts.seconds.add(seconds)
        if self._log is not None:
            shown = scope["raw_path"][:80].decode("ascii", "replace")
            self._log(f"{time.strftime('%H:%M:%S')} {method} {shown} {status} {seconds:.3f} s")


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
