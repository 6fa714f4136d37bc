"""Serves an application on a port: the API, and what operators ask of every role."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from tidemill.api.probes import Probes, create_probes
from tidemill.config.settings import Settings
from tidemill.errors import InvalidSettings, Problem
from tidemill.observability.health import Health

_STREAMS_END_WITHIN_SECONDS = 3


def listen_for_api(settings: Settings) -> socket.socket:
    """A socket that takes an API's connections; raises InvalidSettings."""
    return listen(settings.api.host, settings.api.port, "api.port")


@asynccontextmanager
async def serve_probes(
    host: str, port: int, health: Health, metrics: Callable[[], Awaitable[bytes]]
) -> AsyncIterator[str]:
    """Answer operators there; its URL. Raises InvalidSettings where nobody can listen."""
    with listen(host, port, "observability.port") as listener:
        async with serve(create_probes(Probes(health, metrics)), listener):
            yield url_of(listener)


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket that takes connections; raises InvalidSettings, which names the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InvalidSettings(
            [Problem(setting, f"cannot listen on {host}:{port}: {error.strerror}")]
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serve(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Answer whoever connects; streams have a moment to end."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_STREAMS_END_WITHIN_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="serving")
    try:
        while not server.started:
            await asyncio.wait([serving], timeout=0.01)
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
