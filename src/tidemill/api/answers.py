"""How routes answer, and how a POST is carried out once per idempotency key."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Header, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from tidemill.api.context import ApiContext
from tidemill.api.problems import TITLES, BadRequest, body_problems, pointer_to, told
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


_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """Takes no query that it does not know: a misspelt filter must not be taken for none, nor the
    first of two be lost."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        known: set[str] = set()

        async def strict(request: Request) -> Response:
            if "\0" in request.scope["path"]:
                raise BadRequest(_HOLDS_A_NUL)
            if request.scope["query_string"]:
                known.update(known or _query_names(request.scope["route"].dependant))
                _check_query(request, known)
            return await handle(request)

        return strict


_HOLDS_A_NUL = "an address must not hold a NUL"


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(each) for each in dependant.dependencies))


def _check_query(request: Request, known: Collection[str]) -> None:
    given = Counter(name for name, _ in request.query_params.multi_items())
    there_are = ", ".join(sorted(known)) or "none"
    problems = [
        Problem(name, f"is not known here; there are: {there_are}")
        for name in sorted(given)
        if name not in known
    ] + [Problem(name, "is given twice") for name in sorted(given) if given[name] > 1]
    if problems:
        raise BadRequest(told(problems), problems)
    if any("\0" in value for value in request.query_params.values()):
        raise BadRequest(_HOLDS_A_NUL)


class JsonRoute(StrictRoute):
    """Reads bodies strictly: no NaN, no half surrogates, no NUL, nothing nested without end."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            body = await request.body()
            parsed = read_json(body) if body else None
            return await handle(_ReadRequest(request, body, parsed))

        return strict


class LargeJsonRoute(StrictRoute):
    """Reads its body as strictly, and in a thread: the loop goes on however large it is."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        assert self.body_field is not None
        shape: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation or Any)

        async def strict(request: Request) -> Response:
            body = await request.body()
            parsed = await asyncio.to_thread(_read_as, shape, body) if body else None
            return await handle(_ReadRequest(request, body, parsed))

        return strict


def _read_as(shape: TypeAdapter[Any], body: bytes) -> Any:
    """What a body says, in its shape; raises as `read_json`, and InvalidInput."""
    found = read_json(body)
    try:
        return shape.validate_python(found)
    except ValidationError as error:
        problems = body_problems(error.errors(include_url=False, include_input=False), found)
        raise InvalidInput(told(problems), problems[:_TOLD_AT_MOST]) from None


_TOLD_AT_MOST = 1_000  # problems of one body


class _ReadRequest(Request):
    """A request whose body was read already."""

    def __init__(self, request: Request, body: bytes, parsed: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._parsed = parsed

    async def json(self) -> Any:
        return self._parsed


def read_json(body: bytes) -> Any:
    """What a body says; raises BadRequest, or InvalidInput where it holds what nothing can keep."""
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if _SUSPECT.search(body):
        unusable = list(_unusable(found, ""))
        if unusable:
            raise InvalidInput(told(unusable), unusable)
    return found


_SUSPECT = re.compile(rb"\\u0000|[eE]\+?[0-9]{3}|[0-9]{300}")  # may be a NUL, or infinite


def _unusable(value: Any, pointer: str) -> Iterator[Problem]:
    if isinstance(value, str) and "\0" in value:
        yield Problem(pointer, "must not hold a NUL")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(pointer, "is too large a number")
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _unusable(name, pointer_to(pointer, name))
            yield from _unusable(member, pointer_to(pointer, name))
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _unusable(element, pointer_to(pointer, index))


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
