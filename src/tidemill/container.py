"""Builds everything out of settings, by plain constructor calls. The only room that knows all."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tidemill import __version__
from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.application.recover_lost_runs import recover_after_restart
from tidemill.config.settings import Settings
from tidemill.dispatcher.dispatcher import Dispatcher, DispatcherOptions
from tidemill.errors import InvalidSettings, Problem
from tidemill.foundation.clock import Clock, SystemClock
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.foundation.store import Store
from tidemill.infrastructure.database.sqlite import SqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.observability.metrics import Metrics
from tidemill.worker.executors.containment import Containment
from tidemill.worker.worker import WorkerService
from tidemill.worker_settings import build_registry, worker_name, worker_options

_log = logging.getLogger("tidemill")

_STREAMS_END_WITHIN_SECONDS = 3


class AllInOne:
    """What is running: the store for whoever sets it up, and the address for people."""

    def __init__(self, store: Store, registry: ExecutorRegistry, url: str) -> None:
        self.store = store
        self.registry = registry
        self.url = url


@asynccontextmanager
async def run_all_in_one(settings: Settings, workers: int = 1) -> AsyncIterator[AllInOne]:
    """API, dispatcher and workers in one process, on SQLite and the queue in memory.

    Raises InvalidSettings or Unavailable where something cannot be used as it is set; on leaving,
    drains in the order in which nothing is lost.
    """
    clock, wakeups, queue, metrics = SystemClock(), MemoryWakeups(), MemoryQueue(), Metrics()
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings.api.host, settings.api.port))
        database = settings.database_file
        # Who holds the database's lock owns the task trees that it tells of, and nobody else's.
        containment = Containment(database.with_name(f"{database.name}.run"), owner=str(database))
        registry = build_registry(settings, containment)
        executors = registry.executors(settings.worker.allowed_executors)
        _make_directory_of(database)
        store = await SqliteStore.open(
            database, clock, wakeups, [metrics], readers=settings.database.pool_size
        )
        stack.push_async_callback(store.close)
        await containment.start()
        stack.push_async_callback(containment.close)
        await store.transact(recover_after_restart)
        for executor in executors.values():
            await executor.start()
            stack.push_async_callback(executor.close)
        for number in range(workers):
            name = f"{worker_name(settings)}-{number + 1}" if workers > 1 else None
            options = worker_options(settings, name)
            control_plane = StoreControlPlane(store, queue, clock, options.lease)
            worker = WorkerService(control_plane, wakeups, clock, executors, options)
            await worker.start()
            stack.push_async_callback(worker.stop)
        dispatcher = Dispatcher(store, queue, wakeups, clock, _dispatcher_options(settings))
        await dispatcher.start()
        stack.push_async_callback(dispatcher.stop)
        api = _api_context(settings, store, wakeups, queue, clock, registry, metrics)
        await stack.enter_async_context(_serve(api, listener, settings.api.cors_origins))
        yield AllInOne(store, registry, _url_of(listener))


def _api_context(
    settings: Settings,
    store: Store,
    wakeups: MemoryWakeups,
    queue: MessageQueue,
    clock: Clock,
    registry: ExecutorRegistry,
    metrics: Metrics,
) -> ApiContext:
    return ApiContext(
        store=store,
        wakeups=wakeups,
        queue=queue,
        clock=clock,
        check_task=registry.check,
        render_metrics=metrics.render,
        version=__version__,
        max_body_bytes=settings.api.max_body_bytes,
        allowed_hosts=frozenset({"localhost", "127.0.0.1", "::1", settings.api.host}),
    )


def _dispatcher_options(settings: Settings) -> DispatcherOptions:
    dispatcher = settings.dispatcher
    return DispatcherOptions(
        scan_interval_seconds=dispatcher.scan_interval_seconds,
        scan_batch=dispatcher.scan_batch,
        horizon_seconds=dispatcher.horizon_seconds,
        recovery_interval_seconds=dispatcher.recovery_interval_seconds,
        claim_within_seconds=dispatcher.claim_within_seconds,
        silent_after_seconds=settings.worker.lease_seconds,
        keep_history_seconds=settings.retention.runs_seconds,
    )


def _make_directory_of(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidSettings(
            [Problem("data_dir", f"cannot use {database.parent}: {_said(error)}")]
        ) from error


def _said(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "it is no directory"
    return error.strerror or str(error)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InvalidSettings(
            [Problem("api.port", f"cannot listen on {host}:{port}: {error.strerror}")]
        ) from error
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def _serve(
    context: ApiContext, listener: socket.socket, origins: list[str]
) -> AsyncIterator[None]:
    server = _Server(
        uvicorn.Config(
            _with_origins(create_app(context), origins),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_STREAMS_END_WITHIN_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="api")
    try:
        while not server.started:
            await asyncio.wait([serving], timeout=0.01)
        yield
    finally:
        context.close()
        server.should_exit = True
        await serving


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


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
