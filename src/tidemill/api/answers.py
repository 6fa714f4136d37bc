"""How routes answer, and how a POST is carried out once per idempotency key."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Header, Query, Request
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.responses import Response

from tidemill.api.context import ApiContext
from tidemill.api.problems import BadQuery
from tidemill.api.schemas import ProblemOut
from tidemill.application.answer_once import answer_once
from tidemill.errors import InvalidInput, Problem
from tidemill.foundation.listing import MAX_LIMIT, Page, PageRequest, cursor_of, position_of
from tidemill.foundation.store import Transaction

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="the same key with the same body gives the first answer again, for 24 hours",
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str | None, Query(max_length=1_000)]

_PROBLEM: dict[str, Any] = {
    "model": ProblemOut,
    "description": "A problem (RFC 9457)",
    "content": {"application/problem+json": {}},
}


class Answer(msgspec.Struct, frozen=True):
    """What a POST answers; kept under its idempotency key as it is."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}


class JsonRoute(APIRoute):
    """Reads bodies strictly: no NaN, no half surrogates, no NUL, nothing nested without end."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            found = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise BadQuery(InvalidInput(f"the body is not JSON: {error}")) from None
        if b"\\u0000" in body or b"\0" in body:
            raise InvalidInput("a text must not hold a NUL", [Problem("/", "holds a NUL")])
        return found


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def page_answer(page: Page[Any], view: Callable[[Any], Any]) -> Response:
    """A page of a list."""
    return json_answer(
        {"items": [view(item) for item in page.items], "next_cursor": cursor_of(page.next)}
    )


def page_request(limit: int, cursor: str | None, sort: str, sorts: tuple[str, ...]) -> PageRequest:
    """Which page is asked for; raises BadQuery."""
    if sort not in sorts:
        raise BadQuery(
            InvalidInput(
                f"cannot sort by {sort!r}", [Problem("sort", f"one of {', '.join(sorts)}")]
            )
        )
    try:
        return PageRequest(sort, limit, position_of(cursor, sort) if cursor else None)
    except InvalidInput as error:
        raise BadQuery(error) from None


async def carry_out(
    request: Request,
    context: ApiContext,
    key: str | None,
    act: Callable[[Transaction], Answer],
) -> Response:
    """Carry out a POST in one transaction; with a key, once, whatever happens in between."""
    if key is None:
        answer = await context.store.transact(act)
    else:
        scope = f"{request.method} {request.url.path}"
        once = partial(
            answer_once,
            scope=scope,
            key=key,
            request=await request.body(),
            act=lambda transaction: msgspec.to_builtins(act(transaction)),
        )
        answer = msgspec.convert(await context.store.transact(once), Answer)
    if answer.status == 204:
        return Response(status_code=204)
    return json_answer(answer.body, answer.status, answer.headers)


def documented(status: int, model: Any, *problems: int, text: str = "") -> dict[int | str, Any]:
    """The answers that a route's documentation names."""
    answer: dict[str, Any] = {"description": text or "Done"}
    if model is not None:
        answer["model"] = model
    known: dict[int | str, Any] = {status: answer}
    for each in sorted({400, 403, 503, *problems}):
        known[each] = _PROBLEM
    return known
