"""The API: its context, its application, and the server in front of it."""

import contextlib
import socket

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tidemill import __version__
from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.config.settings import Settings
from tidemill.container.grounds.ground import DATABASE, Ground
from tidemill.container.serving import serve
from tidemill.container.vitals import Vitals
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.foundation.registry import ExecutorRegistry


async def start_api(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    vitals: Vitals,
    registry: ExecutorRegistry,
    strategies: StrategyRegistry,
    listener: socket.socket,
) -> None:
    """Answer at a listener, and say that this process is ready."""
    context = ApiContext(
        store=ground.store,
        queue=ground.queue,
        wakeups=ground.wakeups,
        clock=ground.clock,
        check_task=lambda task: [*registry.check(task), *strategies.check(task)],
        strategies=strategies,
        health=vitals.health,
        render_metrics=vitals.metrics.render,
        version=__version__,
        max_body_bytes=settings.api.max_body_bytes,
        max_artifact_bytes=settings.api.max_artifact_bytes,
        allowed_hosts=frozenset({"localhost", "127.0.0.1", "::1", settings.api.host}),
    )
    app = _with_origins(create_app(context), settings.api.cors_origins)
    await stack.enter_async_context(serve(app, listener))
    stack.callback(context.close)
    # What is triggered is in the database, and waits there for a broker that is gone.
    needed = [
        msgspec.structs.replace(each, is_needed=each.name == DATABASE) for each in ground.components
    ]
    vitals.serve(stack, needed)


def _with_origins(app: ASGIApp, origins: list[str]) -> ASGIApp:
    """Let pages of these origins call the API, where there are any."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=["ETag", "Location", "Retry-After", "X-Request-ID"],
    )
