"""What operators ask every process, whether or not it has an API: alive, ready, numbers."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tidemill.api.answers import documented, json_answer
from tidemill.api.middleware import Gate
from tidemill.api.routing import StrictRoute, application, carried_out
from tidemill.api.schemas import ProbeOut
from tidemill.observability.health import Health

router = APIRouter(tags=["probes"], route_class=StrictRoute)

_METRICS_TEXT = {
    "description": "Prometheus text format 0.0.4",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


class Probes:
    """What the answers are made of."""

    def __init__(self, health: Health, metrics: Callable[[], Awaitable[bytes]]) -> None:
        self.health = health
        self.metrics = metrics


def create_probes(probes: Probes) -> ASGIApp:
    """An application that answers nothing else, to whoever reaches its port."""
    app = application(carried_out(router), probes=probes)
    return Gate(app, max_body_bytes=0, allowed_hosts=None)


async def _probes_of(request: Request) -> Probes:
    probes: Probes = request.app.state.probes
    return probes


_Probes = Annotated[Probes, Depends(_probes_of)]


@router.get("/health", responses=documented(200, ProbeOut))
async def alive() -> Response:
    """This process is alive."""
    return json_answer({"status": "up"})


@router.get("/ready", responses=documented(200, ProbeOut))
async def ready(probes: _Probes) -> Response:
    """This process may serve: what it needs answers, and it is not draining."""
    await probes.health.check_ready()
    return json_answer({"status": "ready"})


@router.get(
    "/metrics",
    responses=documented(200, None) | {200: _METRICS_TEXT},
    response_class=Response,
)
async def prometheus(probes: _Probes) -> Response:
    """Prometheus' text format."""
    return Response(await probes.metrics(), media_type="text/plain; version=0.0.4")
