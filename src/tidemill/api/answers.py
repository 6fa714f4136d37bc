"""How routes answer, and how a POST is carried out once per idempotency key."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Header, Query, Request
from starlette.responses import Response

from tidemill.api.context import ApiContext
from tidemill.api.problems import TITLES, BadRequest
from tidemill.application.answer_once import KeyedCall, answer_once
from tidemill.errors import InvalidInput, Problem
from tidemill.foundation.listing import MAX_LIMIT, Page, PageRequest, cursor_of, position_of
from tidemill.foundation.store import AnswerKey, Transaction

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="the same key with the same body gives the first answer again, for 24 hours; "
        "409 while the first call is under way",
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str | None, Query(max_length=1_000)]

Text = Annotated[str | None, Query(max_length=300)]

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


async def _traceparent(
    traceparent: Annotated[
        str | None, Header(description="W3C Trace Context; handed on to the task")
    ] = None,
) -> str | None:
    """One that is malformed is left out, as the standard has it."""
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


Traceparent = Annotated[str | None, Depends(_traceparent)]


EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Server-sent events: `event`, `id`, and `data` as JSON. Goes on after "
            "the id in `Last-Event-ID`; a run's stream is closed by an event `end` with the run.",
        }
    }
}


class Answer(msgspec.Struct, frozen=True):
    """What a POST answers; kept under its idempotency key as it is."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def page_answer(page: Page[Any], view: Callable[[Any], Any]) -> Response:
    """A page of a list."""
    return json_answer(
        {"items": [view(item) for item in page.items], "next_cursor": cursor_of(page.next)}
    )


def page_request(
    limit: int,
    cursor: str | None,
    sort: str,
    sorts: tuple[str, ...],
    ids: type[int] | type[str] = int,
) -> PageRequest:
    """Which page is asked for; raises BadRequest."""
    if sort not in sorts:
        known = ", ".join(sorts)
        raise BadRequest(f"cannot sort by {sort!r}", [Problem("sort", f"must be one of {known}")])
    try:
        return PageRequest(sort, limit, position_of(cursor, sort, ids) if cursor else None)
    except InvalidInput as error:
        raise BadRequest(str(error), error.problems) from None


async def carry_out(
    request: Request,
    context: ApiContext,
    key: str | None,
    act: Callable[[Transaction], Answer],
) -> Response:
    """Carry out a POST in one transaction; with a key, once, whatever happens in between."""
    call = await keyed_call(request, key)
    if call is None:
        return answered(await context.store.transact(act))
    once = partial(
        answer_once,
        call=call,
        act=lambda transaction: msgspec.to_builtins(act(transaction)),
    )
    return answered(msgspec.convert(await context.store.transact(once), Answer))


async def keyed_call(request: Request, key: str | None) -> KeyedCall | None:
    """What makes a POST the same as another one with its key; None where it has none."""
    if key is None:
        return None
    name = AnswerKey(f"{request.method} {request.url.path}", key)
    return KeyedCall(name, request.url.query.encode() + b"\n" + await request.body())


def answered(answer: Answer) -> Response:
    """The response that says this."""
    if answer.status == 204:
        return Response(status_code=204)
    return json_answer(answer.body, answer.status, answer.headers)


def documented(
    status: int,
    model: Any,
    *problems: int,
    text: str = "Done",
    streams: bool = False,
    content: dict[str, Any] | None = None,
    headers: Sequence[str] = (),
) -> dict[int | str, Any]:
    """The answers that a route's documentation names; what all share, `openapi` adds."""
    answer: dict[str, Any] = {"description": text}
    if model is not None:
        answer["model"] = model
    if streams:
        answer["content"] = EVENT_STREAM
    if content is not None:
        answer["content"] = content
    if headers:
        answer["headers"] = {name: {"schema": {"type": "string"}} for name in headers}
    known: dict[int | str, Any] = {status: answer}
    for each in sorted({400, 403, 503, *problems}):
        known[each] = {"description": TITLES[each]}
    return known
