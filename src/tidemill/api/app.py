"""The API as one ASGI application."""

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from tidemill.api.context import ApiContext
from tidemill.api.middleware import Gate
from tidemill.api.problems import BadQuery, add_handlers
from tidemill.api.routes import runs, system, tasks, workers
from tidemill.errors import InvalidInput, Problem

BASE = "/api/v1"


def create_app(context: ApiContext) -> ASGIApp:
    """The application, behind its gate."""
    return Gate(create_routes(context), context)


def create_routes(context: ApiContext) -> FastAPI:
    """The routes alone: what the OpenAPI document describes."""
    app = FastAPI(
        title="Tidemill",
        version=context.version,
        summary="A distributed task scheduler",
        openapi_url=f"{BASE}/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        dependencies=[Depends(_known_query)],
    )
    app.state.context = context
    for router in (tasks.router, runs.router, workers.router, system.router):
        app.include_router(router, prefix=BASE)
    app.include_router(system.public)
    add_handlers(app)
    return app


def _known_query(request: Request) -> None:
    """A misspelt filter must not be taken for none."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = {field.alias for field in route.dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise BadQuery(
            InvalidInput(
                f"unknown query parameter {unknown[0]!r}",
                [Problem(name, f"is not known here; there are: {names}") for name in unknown],
            )
        )
