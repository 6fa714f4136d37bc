"""Routes: declared with FastAPI, which describes them, and carried out by Starlette.

request ─► its query is known ─► its body is read ─► the arguments ─► the route's function
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.api.arguments import NOTHING, Arguments
from tidemill.api.bodies import read_json
from tidemill.api.problems import HANDLERS, BadRequest, body_problems, told
from tidemill.errors import InvalidInput, Problem

Handler = Callable[[Request], Awaitable[Response]]


class StrictRoute(APIRoute):
    """Takes no query that it does not know: a misspelt filter must not be taken for none, nor the
    first of two be lost. What its function answers is a Response."""

    def handler(self) -> Handler:
        """Answers a request."""
        arguments = Arguments(self.dependant)
        function: Callable[..., Awaitable[Response]] = self.endpoint
        read_body = self.reader()

        async def handle(request: Request) -> Response:
            if "\0" in request.scope["path"]:
                raise BadRequest(_HOLDS_A_NUL)
            if request.scope["query_string"]:
                _check_query(request, arguments.query_names)
            body = await read_body(request)
            return await function(**await arguments.read(request, body))

        return handle

    def reader(self) -> Callable[[Request], Awaitable[Any]]:
        """Gives what the body of a request says, or NOTHING."""
        return _read_nothing


async def _read_nothing(_: Request) -> Any:
    return NOTHING


class JsonRoute(StrictRoute):
    """Takes a body of JSON."""

    def reader(self) -> Callable[[Request], Awaitable[Any]]:
        return _read_body


async def _read_body(request: Request) -> Any:
    body = await request.body()
    return read_json(body) if body else NOTHING


class LargeJsonRoute(StrictRoute):
    """Takes a body of JSON, and reads it in a thread: the loop goes on however large it is."""

    def reader(self) -> Callable[[Request], Awaitable[Any]]:
        assert self.body_field is not None
        shape: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation or Any)

        async def read(request: Request) -> Any:
            body = await request.body()
            return await asyncio.to_thread(_read_as, shape, body) if body else NOTHING

        return read


_TOLD_AT_MOST = 1_000  # problems of one body


def _read_as(shape: TypeAdapter[Any], body: bytes) -> Any:
    """What a body says, in its shape; raises as `read_json`, and InvalidInput."""
    found = read_json(body)
    try:
        return shape.validate_python(found)
    except ValidationError as error:
        problems = body_problems(error.errors(include_url=False, include_input=False), found)
        raise InvalidInput(told(problems), problems[:_TOLD_AT_MOST]) from None


_HOLDS_A_NUL = "an address must not hold a NUL"


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


def carried_out(router: APIRouter, prefix: str = "") -> Iterator[Route]:
    """The routes that a router declares, to be served below `prefix`."""
    for declared in router.routes:
        assert isinstance(declared, StrictRoute)
        methods = declared.methods or set()
        route = Route(prefix + declared.path, declared.handler(), methods=list(methods))
        route.methods = methods  # Starlette adds HEAD, of which the description says nothing
        yield route


def application(routes: Iterable[Route], **state: Any) -> Starlette:
    """What answers at these routes, and every error with a problem; `state` is what they use."""
    app = Starlette(routes=list(routes), exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    for name, value in state.items():
        setattr(app.state, name, value)
    return app
