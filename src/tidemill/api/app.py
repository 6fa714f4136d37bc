"""The API as one ASGI application."""

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tidemill.api import probes
from tidemill.api.answers import json_answer
from tidemill.api.context import ApiContext
from tidemill.api.middleware import Gate
from tidemill.api.openapi import describe
from tidemill.api.routes import apply, flow_runs, runs, system, tasks, worker_calls, workers
from tidemill.api.routing import application, carried_out

BASE = "/api/v1"
_ROUTERS = [
    *(
        (each.router, BASE)
        for each in (tasks, apply, runs, flow_runs, workers, worker_calls, system)
    ),
    (probes.router, ""),
]


def create_app(context: ApiContext) -> ASGIApp:
    """The application, behind its gate: what every request passes before it comes to a route."""
    routes = [route for router, prefix in _ROUTERS for route in carried_out(router, prefix)]
    app = application(
        [*routes, Route(f"{BASE}/openapi.json", _described)],
        context=context,
        probes=probes.Probes(context.health, context.metrics),
    )
    return Gate(
        app,
        max_body_bytes=context.max_body_bytes,
        allowed_hosts=context.allowed_hosts,
        larger_bodies={f"{BASE}{apply.PATH}": max(apply.LARGEST_BODY, context.max_body_bytes)},
    )


async def _described(request: Request) -> Response:
    context: ApiContext = request.app.state.context
    return json_answer(description(context.version))


@cache
def description(version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    return describe("Tidemill", version, _ROUTERS)
