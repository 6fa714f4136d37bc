"""Builds a worker that reaches the API alone.

Nothing of a database is loaded.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from tidemill.config.settings import Settings
from tidemill.container.directories import make_directory
from tidemill.container.parts.worker_settings import (
    build_registry,
    worker_name,
    worker_options,
)
from tidemill.container.vitals import open_vitals
from tidemill.errors import InvalidSettings, Problem
from tidemill.infrastructure.http_control_plane import HttpControlPlane, open_http
from tidemill.infrastructure.lock_file import lock_file
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.observability.health import Component
from tidemill.worker.executors.containment import Containment
from tidemill.worker.worker import WorkerService


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
    options, place = worker_options(settings), _place_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(lock_file(place.with_name(f"{place.name}.lock")))
        vitals = await open_vitals(stack, settings)
        containment = Containment(place.with_name(f"{place.name}.run"), owner=str(place))
        registry = build_registry(settings, containment)
        executors = registry.executors(settings.worker.allowed_executors)
        await containment.start()
        stack.push_async_callback(containment.close)
        for executor in executors.values():
            await executor.start()
            stack.push_async_callback(executor.close)
        clock = vitals.clock
        control_plane = HttpControlPlane(open_http(server_url, key), clock, options.lease)
        stack.push_async_callback(control_plane.close)
        worker = WorkerService(
            control_plane, MemoryWakeups(), clock, executors, options, containment.directory
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        vitals.serve(stack, [Component("server", control_plane.check)])
        yield vitals.url


def _check(server_url: str) -> None:
    parts = urlsplit(server_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidSettings(
            [Problem("server", f"{server_url!r} is no URL; write http://HOST:PORT or https://HOST")]
        )


def _place_of(settings: Settings) -> Path:
    """Where the files of this worker are, beside those of others on the same machine."""
    directory = Path(settings.data_dir).expanduser().resolve()
    make_directory(directory)
    return directory / f"worker-{quote(worker_name(settings), safe='')}"
