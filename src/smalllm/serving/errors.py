"""What a request is answered when it cannot be served, in OpenAI's form."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from smalllm.errors import ConfigError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    503: "server_error",
}


class RequestError(Exception):
    """A request that is refused, or that failed.

    Attributes:
        status: of the response.
        message: what was found, what was expected, what to do.
        param: the field that is wrong.
        code: a word for programs.
        headers: of the response, besides the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def error_body(error: RequestError) -> dict[str, Any]:
    """The object that tells it."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> Response:
    """The response that tells it."""
    return json_response(error_body(error), status=error.status, headers=error.headers)


def json_response(found: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer as JSON, which never holds NaN or Infinity."""
    return Response(to_json(found), status, dict(headers or {}), media_type="application/json")


def to_json(found: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def refused(error: ConfigError) -> RequestError:
    """Options that mean nothing, as a request's error; the first names the field."""
    name = error.problems[0].split(" ")[0].rstrip(":")
    return RequestError(400, "; ".join(error.problems), param=name)


def too_busy(message: str, *, closes: bool = False) -> RequestError:
    """What is refused now could be taken a little later, over another connection where this one `closes`."""
    headers = {"Retry-After": "2", **({"Connection": "close"} if closes else {})}
    return RequestError(503, message, code="overloaded", headers=headers)
