"""Errors as RFC 9457 problems: one shape for everything that can go wrong."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tidemill import errors

_log = logging.getLogger("tidemill.api")

_STATUS_OF: tuple[tuple[type[errors.SchedulerError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.NotFound, 404),
    (errors.VersionMismatch, 412),
    (errors.Conflict, 409),
    (errors.PermissionDenied, 403),
    (errors.LimitExceeded, 429),
    (errors.Unavailable, 503),
)
TITLES = {
    400: "Bad request",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Unsupported media type",
    422: "Cannot be accepted",
    429: "Too many",
    503: "Unavailable",
}


class BadRequest(errors.SchedulerError):
    """A query parameter, cursor or header is wrong, or the body is no JSON: 400."""

    code = "bad_request"

    def __init__(self, message: str, problems: Sequence[errors.Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def problem(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    problems: Sequence[errors.Problem] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer that tells of one problem."""
    body: dict[str, Any] = {
        "type": f"https://tidemill.dev/problems/{code}",
        "title": TITLES.get(status, "Problem"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if problems:
        body["errors"] = [{"pointer": pointer, "message": message} for pointer, message in problems]
    return Response(
        msgspec.json.encode(body), status, headers, media_type="application/problem+json"
    )


def unexpected(request_id: str, error: BaseException) -> Response:
    """A defect of ours: the details go to the log, under the id that the caller is told."""
    _log.error("request %s failed", request_id, exc_info=error)
    return problem(request_id, 503, "internal_error", "this could not be done; the log says why")


async def _on_scheduler_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SchedulerError)
    if isinstance(error, BadRequest):
        return problem(_id_of(request), 400, error.code, str(error), error.problems)
    status = next((s for kind, s in _STATUS_OF if isinstance(error, kind)), None)
    if status is None:
        return unexpected(_id_of(request), error)
    problems = error.problems if isinstance(error, errors.InvalidInput) else ()
    headers = {"Retry-After": "1"} if status in {429, 503} else None
    return problem(_id_of(request), status, error.code, str(error), problems, headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    places = {each["loc"][0] for each in found}
    if "path" in places:
        return problem(_id_of(request), 404, "not_found", "no such thing has this id")
    if places & {"query", "header"}:
        named = [
            errors.Problem(str(each["loc"][1]), each["msg"].removeprefix("Value error, "))
            for each in found
            if each["loc"][0] != "body"
        ]
        return problem(_id_of(request), 400, BadRequest.code, told(named), named)
    inside = [{**each, "loc": each["loc"][1:]} for each in found]
    wrong = body_problems(inside, error.body)
    return problem(_id_of(request), 422, errors.InvalidInput.code, told(wrong), wrong)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status == 404:
        return problem(_id_of(request), status, "not_found", "no such address")
    if status == 405:
        allowed = _methods_at(request)
        detail = f"this address takes {allowed}"
        headers = {"Allow": allowed}
        return problem(_id_of(request), status, "method_not_allowed", detail, headers=headers)
    return problem(_id_of(request), status, BadRequest.code, str(error.detail))


def _methods_at(request: Request) -> str:
    """Every method of an address, which several routes may share."""
    here = request.url.path
    found = {
        method
        for route in request.app.routes
        if route.path_regex.match(here)
        for method in route.methods
    }
    return ", ".join(sorted(found))


HANDLERS: Final[Mapping[Any, Any]] = {  # of what the routes of an application raise
    errors.SchedulerError: _on_scheduler_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
}


def body_problems(found: Sequence[Any], body: Any) -> list[errors.Problem]:
    """Pydantic's findings in `body`, one for each place."""
    messages: dict[str, list[str]] = {}
    for each in found:
        said = messages.setdefault(_pointer_of(each, body), [])
        said.append(_MESSAGES.get(each["type"]) or each["msg"].removeprefix("Value error, "))
    return [errors.Problem(pointer, "; or: ".join(said)) for pointer, said in messages.items()]


_MESSAGES = {
    "extra_forbidden": "is not known here; the fields are listed in /api/v1/openapi.json",
    "missing": "is required",
}


def _pointer_of(found: Any, body: Any) -> str:
    """Where it is (RFC 6901). Pydantic puts the names of a union's branches in between."""
    pointer, here = "", body
    for part in found["loc"]:
        is_member = isinstance(here, dict) and part in here
        is_element = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if is_member or is_element:
            pointer, here = pointer_to(pointer, part), here[part]
    is_missing = found["type"] == "missing" and found["loc"]
    return pointer_to(pointer, found["loc"][-1]) if is_missing else pointer


def pointer_to(parent: str, part: str | int) -> str:
    """The pointer to a member or an element of what `parent` points to."""
    return f"{parent}/{str(part).replace('~', '~0').replace('/', '~1')}"


def told(found: Sequence[errors.Problem]) -> str:
    """The first findings as one line."""
    return "; ".join(f"{pointer or 'the body'}: {message}" for pointer, message in found[:3])


def _id_of(request: Request) -> str:
    request_id: str = request.scope.get("request_id", "")
    return request_id
