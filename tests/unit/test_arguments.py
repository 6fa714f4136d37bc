"""What a route's function is called with, read from a request."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Cookie, Depends, Header, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request

from tidemill.api.arguments import NOTHING, Arguments


def arguments_of(function: Any) -> Arguments:
    """Of a route that has this function."""
    router = APIRouter()
    router.post("/things/{id}")(function)
    [route] = router.routes
    assert isinstance(route, APIRoute)
    return Arguments(route.dependant)


def request(query: bytes = b"", headers: dict[str, str] | None = None, id: str = "1") -> Request:
    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": f"/things/{id}",
            "path_params": {"id": id},
            "query_string": query,
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        }
    )


async def test_arguments_come_from_wherever_they_are_declared_in_their_types() -> None:
    async def function(
        request: Request,
        id: Annotated[int, Path()],
        flag: Annotated[bool, Query(alias="is-flagged")] = False,
        request_key: Annotated[str | None, Header()] = None,
        body: Annotated[dict[str, int] | None, Body()] = None,
    ) -> None: ...

    arguments = arguments_of(function)
    asked = request(b"is-flagged=true", {"Request-Key": "k"})

    assert arguments.query_names == {"is-flagged"}
    assert await arguments.read(asked, {"a": "1"}) == {
        "request": asked, "id": 1, "flag": True, "request_key": "k", "body": {"a": 1},
    }  # fmt: skip
    asked = request()
    assert await arguments.read(asked, NOTHING) == {
        "request": asked, "id": 1, "flag": False, "request_key": None, "body": None,
    }  # fmt: skip


async def test_all_that_is_wrong_is_told_at_once_by_its_place() -> None:
    async def function(
        id: int,
        count: Annotated[int, Query(ge=1)],
        key: Annotated[str, Header(max_length=1)],
        body: Annotated[dict[str, int], Body()],
    ) -> None: ...

    with pytest.raises(RequestValidationError) as wrong:
        await arguments_of(function).read(request(b"count=0", {"key": "kk"}, id="x"), {"a": "b"})
    found = [(each["loc"], each["type"]) for each in wrong.value.errors()]
    assert found == [
        (("path", "id"), "int_parsing"),
        (("query", "count"), "greater_than_equal"),
        (("header", "key"), "string_too_long"),
        (("body", "a"), "int_parsing"),
    ]
    with pytest.raises(RequestValidationError) as wrong:
        await arguments_of(function).read(request(), NOTHING)
    assert [(each["loc"], each["type"]) for each in wrong.value.errors()] == [
        (("query", "count"), "missing"), (("header", "key"), "missing"), (("body",), "missing"),
    ]  # fmt: skip


async def test_null_is_a_body_and_no_body_is_none() -> None:
    async def function(body: Annotated[dict[str, int], Body()]) -> None: ...

    with pytest.raises(RequestValidationError) as wrong:
        await arguments_of(function).read(request(), None)
    assert [each["type"] for each in wrong.value.errors()] == ["dict_type"]


async def test_a_dependency_is_asked_once_with_what_it_asks_for_and_not_where_that_is_wrong() -> (
    None
):
    asked = []

    async def inner(size: Annotated[int, Query()] = 3) -> int:
        asked.append(size)
        return size

    async def outer(inner: Annotated[int, Depends(inner)]) -> int:
        return inner * 2

    async def check() -> None:
        asked.append("checked")

    async def function(
        a: Annotated[int, Depends(inner)],
        b: Annotated[int, Depends(outer)],
        c: Annotated[None, Depends(check)],
    ) -> None: ...

    arguments = arguments_of(function)
    assert arguments.query_names == {"size"}
    assert await arguments.read(request(b"size=4"), NOTHING) == {"a": 4, "b": 8, "c": None}
    assert asked == [4, "checked"]
    with pytest.raises(RequestValidationError):
        await arguments.read(request(b"size=x"), NOTHING)
    assert asked == [4, "checked"]


async def test_what_a_dependency_refuses_comes_before_what_is_wrong_in_the_request() -> None:
    async def refuse() -> None:
        raise PermissionError

    async def function(
        refused: Annotated[None, Depends(refuse)], count: Annotated[int, Query()]
    ) -> None: ...

    with pytest.raises(PermissionError):
        await arguments_of(function).read(request(b"count=x"), NOTHING)


def _in_a_thread() -> None: ...


async def _to_be_closed() -> AsyncIterator[None]:
    yield


async def _with_a_cookie(session: Annotated[str, Cookie()]) -> None: ...


async def _with_its_answer(response: Response) -> None: ...


async def _with_several(tags: Annotated[list[str] | None, Query()] = None) -> None: ...


async def _with_a_part_of_its_body(count: Annotated[int, Body(embed=True)]) -> None: ...


async def _that_needs_one(inner: Annotated[None, Depends(_to_be_closed)]) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        _in_a_thread,
        _with_a_cookie,
        _with_its_answer,
        _with_several,
        _with_a_part_of_its_body,
        _that_needs_one,
    ],
)
def test_a_function_that_asks_for_anything_else_is_refused_when_it_is_declared(
    function: Any,
) -> None:
    with pytest.raises(TypeError, match="asks for something that is not read"):
        arguments_of(function)
