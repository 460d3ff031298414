"""The app: which path leads where, and what becomes of an error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from smalllm import __version__
from smalllm.serving import static, tools
from smalllm.serving.completions import complete
from smalllm.serving.describe import described
from smalllm.serving.errors import ClientGone, RequestError, error_response
from smalllm.serving.fields import CompletionFields, DetokenizeFields, DistributionFields, TokenizeFields
from smalllm.serving.guard import Guard, Log
from smalllm.serving.limits import Limits
from smalllm.serving.metrics import HttpCounts
from smalllm.serving.models import Served

FREE = ("/health", *static.PATHS)
"""Paths that need no token."""


def create_app(
    models: Sequence[Served],
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    limits: Limits | None = None,
    log: Log | None = None,
) -> FastAPI:
    """The server as an ASGI app; it starts the models' threads when it starts, and ends them when it ends.

    Args:
        models: what is served.
        token: that every request must bring, but those for `FREE`.
        hosts: names that requests may call this server by; empty: any.
        limits: absent: the defaults.
        log: told a line for each request.
    """
    limits, counts = limits or Limits(), HttpCounts()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for served in models:
            served.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(end, models)

    app = FastAPI(
        title="smalllm",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers=_HANDLERS,
    )
    _add_routes(app, models, limits, counts)
    known = {route.path for route in app.routes if isinstance(route, APIRoute)} | {"/openapi.json"}
    app.add_middleware(Guard, token=token, free=FREE, known=known, hosts=hosts, limits=limits, counts=counts, log=log)
    return app


def end(models: Sequence[Served]) -> None:
    """End the models' threads, and with them all that they were asked."""
    for served in models:
        served.engine.close()
    for served in models:
        served.engine.join()


def _add_routes(app: FastAPI, models: Sequence[Served], limits: Limits, counts: HttpCounts) -> None:
    @app.post("/v1/completions", **described("Continue prompts", CompletionFields))
    async def completions(request: Request) -> Any:
        return await complete(request, models, limits)

    @app.post("/tokenize", **described("Text to token ids", TokenizeFields))
    async def tokenize(request: Request) -> Response:
        return await tools.tokenize(request, models, limits)

    @app.post("/detokenize", **described("Token ids to text", DetokenizeFields))
    async def detokenize(request: Request) -> Response:
        return await tools.detokenize(request, models, limits)

    @app.post("/distribution", **described("What may come next", DistributionFields))
    async def distribution(request: Request) -> Response:
        return await tools.distribute(request, models, limits)

    @app.get("/v1/models", **described("What is served"))
    async def list_models() -> Response:
        return tools.list_models(models)

    @app.get("/v1/models/{id:path}", **described("One model"))
    async def show_model(id: str) -> Response:
        return tools.show_model(models, id)

    @app.get("/health", **described("Whether all is well"))
    async def health() -> Response:
        return tools.health(models)

    @app.get("/metrics", **described("Numbers for Prometheus", kind="text/plain"))
    async def metrics() -> Response:
        return tools.metrics(models, counts)

    for path, content in static.read_page().items():
        _add_page(app, path, content)


def _add_page(app: FastAPI, path: str, content: bytes) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return static.show(content, static.PATHS[path])


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _answer_http(request: Request, error: Exception) -> Response:
    """What the router finds: no such path, or another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        said = f"{request.method} is not what this path takes"
    else:
        said = "there is nothing here; /openapi.json lists what there is"
    return error_response(RequestError(error.status_code, said, headers=error.headers))


async def _answer_gone(request: Request, error: Exception) -> Response:
    raise error  # to the guard: nobody is there to be answered


async def _answer_bug(request: Request, error: Exception) -> Response:
    return error_response(RequestError(500, "an error of the server; its log says more", code="failed"))


_HANDLERS: dict[int | type[Exception], Any] = {
    RequestError: _answer_error,
    HTTPException: _answer_http,
    ClientGone: _answer_gone,
    Exception: _answer_bug,
}
