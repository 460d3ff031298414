"""`/v1/completions`: the whole answer at once, or a stream of events."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smalllm.generation.decoder import Event
from smalllm.serving.body import read_json
from smalllm.serving.choices import Choice
from smalllm.serving.errors import ClientGone, RequestError, error_body, json_response, to_json
from smalllm.serving.fields import CompletionFields, read_fields
from smalllm.serving.limits import Limits
from smalllm.serving.models import Served, find_model
from smalllm.serving.plan import Plan, make_plan
from smalllm.serving.ticket import Ticket
from smalllm.serving.waiting import too_long, unless_gone, until_gone

_FLUSH_S = 0.05
"""Between two writes to one stream: tokens that come faster than anybody reads go together [s]."""
_EVENTS_AT_ONCE = 256
"""In one write: others' turns come in between."""
_LARGE = 20_000
"""Values of a response that another thread puts together."""


async def complete(request: Request, models: Sequence[Served], limits: Limits) -> Any:
    """Answer a request.

    Raises:
        RequestError: it cannot be served.
        ClientGone: nobody waits for the answer.
    """
    fields = read_fields(CompletionFields, await read_json(request, limits))
    served = find_model(models, fields.model)
    plan = await make_plan(served, fields, limits)
    if not fields.stream:
        return await unless_gone(request.receive, _whole(plan), limit_s=limits.request_s)
    choices = await unless_gone(request.receive, plan.choices(), limit_s=limits.request_s)
    ticket = Ticket(plan.asked(), streams=True) if plan.max_tokens else None
    if ticket is not None:
        served.engine.submit(ticket)
    return EventStream(plan, choices, ticket, limit_s=limits.request_s)


async def _whole(plan: Plan) -> Response:
    choices = await plan.choices()
    events: dict[int, list[Event]] = defaultdict(list)
    if plan.max_tokens:
        for index, event in await _run(plan):
            events[index].append(event)

    def response() -> Response:
        found = [choice.piece(events[i], is_last=True) for i, choice in enumerate(choices)]
        usage = plan.usage(sum(choice.n_tokens for choice in choices))
        return json_response({**plan.head(), **plan.prompt_token_ids(), "choices": found, "usage": usage})

    return response() if plan.n_values < _LARGE else await asyncio.to_thread(response)


async def _run(plan: Plan) -> list[tuple[int, Event]]:
    ticket = Ticket(plan.asked(), streams=False)
    plan.served.engine.submit(ticket)
    try:
        await ticket.wait()
    finally:
        plan.served.engine.cancel(ticket)
    if ticket.error is not None:
        raise ticket.error
    return list(ticket.events)


class EventStream(Response):
    """A response of server-sent events, each with what is new of one continuation; `[DONE]` ends it.

    Args:
        plan: the request.
        choices: its continuations.
        ticket: submitted; None where nothing is to be written.
        limit_s: after so long it ends with an error.
    """

    def __init__(self, plan: Plan, choices: Sequence[Choice], ticket: Ticket | None, *, limit_s: float) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._plan, self._choices, self._ticket, self._limit_s = plan, choices, ticket, limit_s
        self._head = {**plan.head(), **({"usage": None} if self._tells_usage else {})}
        self._first = plan.prompt_token_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it."""
        gone = asyncio.ensure_future(until_gone(receive))
        if (ticket := self._ticket) is not None:
            gone.add_done_callback(lambda _: ticket.wake())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._write(send, gone)
                last = self._ending()
            except TimeoutError:
                last = _event(error_body(too_long(self._limit_s)))
            except RequestError as error:
                last = _event(error_body(error))
            await send({"type": "http.response.body", "body": last + b"data: [DONE]\n\n", "more_body": False})
        except ClientGone:
            pass
        finally:
            gone.cancel()
            if self._ticket is not None:
                self._plan.served.engine.cancel(self._ticket)

    @property
    def _tells_usage(self) -> bool:
        options = self._plan.fields.stream_options
        return options is not None and bool(options.include_usage)

    async def _write(self, send: Send, gone: "asyncio.Future[None]") -> None:
        ticket = self._ticket
        if ticket is None:
            pieces = [self._chunk(choice.piece([], is_last=True)) for choice in self._choices]
            await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            return
        while True:
            if not gone.done():  # it may have been while this rested
                await ticket.wait()
            if gone.done():
                raise ClientGone
            is_over, news = ticket.is_over, defaultdict[int, list[Event]](list)  # first whether, then what
            for index, event in ticket.take(_EVENTS_AT_ONCE):
                news[index].append(event)
            pieces = [self._chunk(self._choices[i].piece(events)) for i, events in news.items()]
            if pieces:
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            if is_over and not ticket.events:
                break
            await (asyncio.sleep(0) if ticket.events else ticket.rest(_FLUSH_S))
        if isinstance(ticket.error, RequestError):
            raise ticket.error

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        first, self._first = self._first, {}
        return _event({**self._head, **first, "choices": [choice]})

    def _ending(self) -> bytes:
        if not self._tells_usage:
            return b""
        usage = self._plan.usage(sum(choice.n_tokens for choice in self._choices))
        return _event({**self._head, "choices": [], "usage": usage})


def _event(found: object) -> bytes:
    return b"data: " + to_json(found) + b"\n\n"
