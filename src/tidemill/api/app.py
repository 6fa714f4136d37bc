"""The API as one ASGI application."""

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from tidemill.api import probes
from tidemill.api.context import ApiContext
from tidemill.api.middleware import Gate
from tidemill.api.openapi import complete
from tidemill.api.problems import add_handlers
from tidemill.api.routes import apply, flow_runs, runs, system, tasks, worker_calls, workers

BASE = "/api/v1"


def create_app(context: ApiContext) -> ASGIApp:
    """The application, behind its gate."""
    return gate(create_routes(context), context)


def gate(routes: FastAPI, context: ApiContext) -> ASGIApp:
    """What every request passes before it comes to a route."""
    return Gate(
        routes,
        max_body_bytes=context.max_body_bytes,
        allowed_hosts=context.allowed_hosts,
        larger_bodies={f"{BASE}{apply.PATH}": max(apply.LARGEST_BODY, context.max_body_bytes)},
    )


def create_routes(context: ApiContext) -> FastAPI:
    """The routes alone: what the OpenAPI document describes."""
    app = _Described(
        title="Tidemill",
        version=context.version,
        summary="A distributed task scheduler",
        openapi_url=f"{BASE}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.context = context
    app.state.probes = probes.Probes(context.health, context.metrics)
    for routes in (tasks, apply, runs, flow_runs, workers, worker_calls, system):
        app.include_router(routes.router, prefix=BASE)
    app.include_router(probes.router)
    add_handlers(app)
    return app


class _Described(FastAPI):
    """An application whose description leaves nothing out."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            complete(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema
