"""Errors as RFC 9457 problems: one shape for everything that can go wrong."""

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
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
_TITLES = {
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
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


class BadQuery(errors.SchedulerError):
    """A query parameter, cursor or header is wrong: 400."""

    code = "bad_query"

    def __init__(self, error: errors.InvalidInput) -> None:
        super().__init__(str(error))
        self.problems = error.problems


def problem(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    problems: "tuple[errors.Problem, ...]" = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer that tells of one problem."""
    body: dict[str, Any] = {
        "type": f"https://tidemill.dev/problems/{code}",
        "title": _TITLES.get(status, "Problem"),
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


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    app.add_exception_handler(errors.SchedulerError, _on_scheduler_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


def unexpected(request_id: str, error: BaseException) -> Response:
    """A defect of ours: the details go to the log, under the id that the caller is told."""
    _log.error("request %s failed", request_id, exc_info=error)
    return problem(request_id, 503, "internal_error", "this could not be done; the log says why")


async def _on_scheduler_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SchedulerError)
    if isinstance(error, BadQuery):
        return problem(_id_of(request), 400, error.code, str(error), error.problems)
    status = next((s for kind, s in _STATUS_OF if isinstance(error, kind)), None)
    if status is None:
        return unexpected(_id_of(request), error)
    problems = error.problems if isinstance(error, errors.InvalidInput) else ()
    headers = {"Retry-After": "1"} if status in {429, 503} else None
    return problem(_id_of(request), status, error.code, str(error), problems, headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = {each["loc"][0] for each in error.errors()}
    found = tuple(
        errors.Problem(_pointer_of(each["loc"]), str(each["msg"])) for each in error.errors()
    )
    if "path" in places:
        return problem(_id_of(request), 404, "not_found", "no such thing has this id")
    if places & {"query", "header"}:
        return problem(_id_of(request), 400, "bad_query", _said(found), found)
    return problem(_id_of(request), 422, "invalid_input", _said(found), found)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "bad_request")
    detail = {404: "no such address", 405: "this address does not take this method"}.get(
        error.status_code, str(error.detail)
    )
    headers = dict(error.headers) if error.headers else None
    return problem(_id_of(request), error.status_code, code, detail, (), headers)


def _pointer_of(location: tuple[int | str, ...]) -> str:
    place, *path = location
    if place != "body":
        return "/".join(str(part) for part in path)
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path) or "/"


def _said(found: "tuple[errors.Problem, ...]") -> str:
    return "; ".join(f"{pointer}: {message}" for pointer, message in found[:3])


def _id_of(request: Request) -> str:
    request_id: str = request.scope.get("request_id", "")
    return request_id
