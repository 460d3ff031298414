"""What `/openapi.json` says of a route."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_TOLD = {
    400: "A field is wrong; the message says which and how.",
    401: "The token is missing or wrong.",
    403: "Host or Origin are not of this machine.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too long.",
    415: "The body is compressed.",
    431: "The headers are too long.",
    503: "Too busy, or ending; Retry-After says when to come back.",
}
_WITHOUT_BODY = (401, 403, 404, 431, 503)


def described(summary: str, body: type[BaseModel] | None = None, *, kind: str = "application/json") -> dict[str, Any]:
    """Arguments for a route: what it does, what it takes and what it may answer.

    The body is described and not declared: the server reads it within bounds that a framework does not know.
    """
    statuses = _TOLD if body is not None else {status: _TOLD[status] for status in _WITHOUT_BODY}
    responses: dict[int, Any] = {200: {"description": "Done.", "content": {kind: {}}}}
    for status, text in statuses.items():
        responses[status] = {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    found: dict[str, Any] = {"summary": summary, "responses": responses, "response_class": Response}
    if body is not None:
        responses[200]["content"] |= {"text/event-stream": {}} if "stream" in body.model_fields else {}
        schema = _without_references(body.model_json_schema())
        content = {"application/json": {"schema": schema}}
        found["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return found


def _without_references(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions put where they are used: OpenAPI looks for them elsewhere."""
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(definitions[part["$ref"].rpartition("/")[2]])
            return {key: resolved(value) for key, value in part.items()}
        return [resolved(one) for one in part] if isinstance(part, list) else part

    return dict(resolved(schema))
