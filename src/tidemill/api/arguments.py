"""What a route's function is called with, read from a request.

FastAPI declares routes and describes them. What each asks for is read here, by a plan that is made
once: FastAPI works it out anew with every request, which takes longer than a short one's work.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from inspect import iscoroutinefunction
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from pydantic import BaseModel
from starlette.requests import Request

NOTHING: Final = object()  # a body of no bytes


class Arguments:
    """Reads the arguments of one route.

    Raises TypeError for a route that asks for what is not read here: cookies, forms, several values
    of one name, or what has to be given back after the answer.
    """

    def __init__(self, dependant: Dependant) -> None:
        self._plan = _Plan(dependant)
        self.query_names = frozenset(self._plan.query_names())

    async def read(self, request: Request, body: Any) -> dict[str, Any]:
        """By name; `body` is what the body says, or NOTHING.

        Raises RequestValidationError with all that is wrong, and what a dependency raises.
        """
        given = _Given(request, body)
        values = await self._plan.carry_out(given)
        if given.problems:
            raise RequestValidationError(given.problems, body=None if body is NOTHING else body)
        return values


class _Given:
    """A request, and what was found in it until now."""

    def __init__(self, request: Request, body: Any) -> None:
        self.request = request
        self.body = body
        self.problems: list[dict[str, Any]] = []
        self.known: dict[Callable[..., Any], Any] = {}  # what dependencies gave


class _Plan:
    """What one function asks for: what it depends on, and its own parameters."""

    def __init__(self, dependant: Dependant) -> None:
        call = dependant.call
        is_coroutine = iscoroutinefunction(call) or iscoroutinefunction(
            getattr(call, "__call__", None)  # noqa: B004
        )
        if call is None or not is_coroutine or _asks_for_more(dependant):
            raise TypeError(f"{call!r} asks for something that is not read from requests")
        self.name = dependant.name
        self.call: Callable[..., Awaitable[Any]] = call
        self._needs = [_Plan(each) for each in dependant.dependencies]
        self._request_name = dependant.request_param_name
        self._query = [_Parameter(each, "query") for each in dependant.query_params]
        self._headers = [_Parameter(each, "header") for each in dependant.header_params]
        self._path = [_Parameter(each, "path") for each in dependant.path_params]
        self._body = [_Parameter(each, "body") for each in dependant.body_params]

    def query_names(self) -> Iterator[str]:
        """Every name that the query may have."""
        yield from (each.alias for each in self._query)
        for each in self._needs:
            yield from each.query_names()

    async def carry_out(self, given: _Given) -> dict[str, Any]:
        """The arguments of this function; where some are wrong, `given` has the problems."""
        values: dict[str, Any] = {}
        for each in self._needs:
            value = await each.provide(given)
            if each.name is not None:
                values[each.name] = value
        request = given.request
        for parameter in self._path:
            parameter.take(request.path_params, given, values)
        for parameter in self._query:
            parameter.take(request.query_params, given, values)
        for parameter in self._headers:
            parameter.take(request.headers, given, values)
        for parameter in self._body:
            parameter.check(given.body, ("body",), given, values)
        if self._request_name is not None:
            values[self._request_name] = request
        return values

    async def provide(self, given: _Given) -> Any:
        """What this dependency gives, which is asked once for each request."""
        if self.call not in given.known:
            values = await self.carry_out(given)
            given.known[self.call] = None if given.problems else await self.call(**values)
        return given.known[self.call]


class _Parameter:
    """One argument, its default, and what it must be like."""

    def __init__(self, field: Any, place: str) -> None:
        self.alias: str = field.validation_alias or field.alias
        self._name: str = field.name
        self._validate: Callable[..., tuple[Any, list[dict[str, Any]]]] = field.validate
        self._is_required: bool = field.field_info.is_required()
        self._default = None if self._is_required else field.get_default()
        self._place = (place, self.alias)

    def take(self, source: Mapping[str, str], given: _Given, values: dict[str, Any]) -> None:
        """From the source that may name it."""
        self.check(source.get(self.alias, NOTHING), self._place, given, values)

    def check(
        self, value: Any, place: tuple[str, ...], given: _Given, values: dict[str, Any]
    ) -> None:
        """This value; the default where there is none."""
        if value is not NOTHING:
            values[self._name], problems = self._validate(value, {}, loc=place)
            given.problems += problems
        elif self._is_required:
            missing = {"type": "missing", "loc": place, "msg": "Field required", "input": None}
            given.problems.append(missing)
        else:
            values[self._name] = self._default


def _asks_for_more(dependant: Dependant) -> bool:
    """Than is read here, or in another way."""
    return bool(
        dependant.cookie_params
        or dependant.response_param_name
        or dependant.background_tasks_param_name
        or dependant.security_scopes_param_name
        or dependant.http_connection_param_name
        or len(dependant.body_params) > 1
        or any(_is_in_parts(field.field_info) for field in dependant.body_params)
        or any(
            _gathers(field.field_info.annotation)
            for field in [*dependant.query_params, *dependant.header_params]
        )
        or dependant.concurrency
    )


def _is_in_parts(field: Any) -> bool:
    """Whether a parameter is but a part of the body, or one of a form."""
    return isinstance(field, Form) or bool(getattr(field, "embed", None))


def _gathers(annotation: Any) -> bool:
    """Whether a parameter of this type is made of several."""
    is_union = get_origin(annotation) in {Union, UnionType}
    kinds = [
        get_origin(each) or each for each in (get_args(annotation) if is_union else [annotation])
    ]
    return any(
        isinstance(kind, type)
        and issubclass(kind, Collection | BaseModel)
        and not issubclass(kind, str | bytes)
        for kind in kinds
    )
