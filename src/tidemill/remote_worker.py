"""Builds a worker that reaches the API alone.

No database is imported, and a web framework only where operators may ask the worker how it is.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from tidemill.config.settings import Settings
from tidemill.errors import InvalidSettings, Problem, Unavailable
from tidemill.foundation.clock import SystemClock
from tidemill.infrastructure.http_control_plane import HttpControlPlane, open_http
from tidemill.infrastructure.lock_file import lock_file
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.observability.health import Component, Health
from tidemill.worker.executors.containment import Containment
from tidemill.worker.worker import WorkerService
from tidemill.worker_settings import build_registry, worker_name, worker_options


@asynccontextmanager
async def run_remote_worker(
    settings: Settings, server_url: str, key: str | None
) -> AsyncIterator[str | None]:
    """A worker of the server at `server_url`, which each of its requests brings `key`.

    What it yields is the URL of its probes, where it has some.

    Raises InvalidSettings where something cannot be used as it is set, and Unavailable where the
    server does not answer, or another worker of this name runs on the same data directory. On
    leaving it drains.
    """
    _check(server_url)
    clock, options = SystemClock(), worker_options(settings)
    place = _place_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(lock_file(place.with_name(f"{place.name}.lock")))
        health = Health(clock)
        probes_url = await stack.enter_async_context(_probes(settings, health))
        containment = Containment(place.with_name(f"{place.name}.run"), owner=str(place))
        executors = build_registry(settings, containment).executors(
            settings.worker.allowed_executors
        )
        await containment.start()
        stack.push_async_callback(containment.close)
        for executor in executors.values():
            await executor.start()
            stack.push_async_callback(executor.close)
        control_plane = HttpControlPlane(open_http(server_url, key), clock, options.lease)
        stack.push_async_callback(control_plane.close)
        worker = WorkerService(
            control_plane, MemoryWakeups(), clock, executors, options, containment.directory
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        health.serve([Component("server", control_plane.check)])
        stack.callback(health.drain)
        yield probes_url


@asynccontextmanager
async def _probes(settings: Settings, health: Health) -> AsyncIterator[str | None]:
    if settings.observability.port is None:
        yield None
        return
    # A web framework, which a worker that nobody asks does without.
    from tidemill.observability.metrics import Metrics
    from tidemill.serving import serve_probes

    async with serve_probes(settings.observability, health, Metrics().render_own) as url:
        yield url


def _check(server_url: str) -> None:
    parts = urlsplit(server_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidSettings(
            [Problem("server", f"{server_url!r} is no URL; write http://HOST:PORT or https://HOST")]
        )


def _place_of(settings: Settings) -> Path:
    """Where the files of this worker are, beside those of others on the same machine."""
    directory = Path(settings.data_dir).expanduser().resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"cannot use {directory}: {error.strerror}") from error
    return directory / f"worker-{quote(worker_name(settings), safe='')}"
