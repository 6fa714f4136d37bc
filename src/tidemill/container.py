"""Builds everything out of settings, by plain constructor calls. The only room that knows all."""

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tidemill import __version__
from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.application.recover_lost_runs import recover_after_restart
from tidemill.config.settings import Settings
from tidemill.dispatcher.dispatcher import Dispatcher, DispatcherOptions
from tidemill.domain.strategies.registry import StrategyRegistry, built_in_strategies
from tidemill.errors import InvalidInput, InvalidSettings, Problem
from tidemill.foundation.clock import Clock, SystemClock
from tidemill.foundation.event_sink import EventSink
from tidemill.foundation.executor import Executor
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.foundation.store import Store
from tidemill.foundation.wakeups import Wakeups
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.postgres_schema import check_postgres, upgrade_postgres
from tidemill.infrastructure.database.sqlite import SqliteStore
from tidemill.infrastructure.lock_file import lock_file
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.postgres_wakeups import PostgresWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.queues.postgres import PostgresQueue
from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue
from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue
from tidemill.infrastructure.queues.status_messages import StatusMessages
from tidemill.infrastructure.resilience.circuit_breaker import BreakerOptions, CircuitBreaker
from tidemill.infrastructure.resilience.guarded_queue import GuardedQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.observability.health import Component, Health
from tidemill.observability.metrics import Metrics
from tidemill.serving import listen, serve, serve_probes, url_of
from tidemill.worker.executors.containment import Containment
from tidemill.worker.worker import WorkerService
from tidemill.worker_settings import build_registry, worker_name, worker_options

_log = logging.getLogger("tidemill")

_SQLITE_READERS = 2
_DATABASE, _MESSAGE_QUEUE = "database", "message_queue"
# Connections to PostgreSQL that each role has use for.
_POOL_OF_API, _POOL_OF_DISPATCHER, _POOL_OF_WORKER, _POOL_OF_ALL = 8, 5, 4, 12


class Vitals:
    """What operators are told of this process; `url` is None where nobody can ask."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.health = Health(clock)
        self.metrics = Metrics()
        self.url: str | None = None


class Ground:
    """What every role stands on: where everything is kept, and how processes reach one another.

    `components` are the parts of it that may be gone.
    """

    def __init__(
        self,
        store: Store,
        queue: MessageQueue,
        wakeups: Wakeups,
        clock: Clock,
        components: Sequence[Component],
    ) -> None:
        self.store = store
        self.queue = queue
        self.wakeups = wakeups
        self.clock = clock
        self.components = components


class Running:
    """What is running: the store for whoever sets it up, and the addresses for people."""

    def __init__(
        self, store: Store, registry: ExecutorRegistry, url: str, probes_url: str | None
    ) -> None:
        self.store = store
        self.registry = registry
        self.url = url
        self.probes_url = probes_url


@asynccontextmanager
async def run_all_in_one(settings: Settings, workers: int = 1) -> AsyncIterator[Running]:
    """API, dispatcher and workers in one process.

    Raises InvalidSettings or Unavailable where something cannot be used as it is set; on leaving,
    drains in the order in which nothing is lost.
    """
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings))
        vitals = await _vitals(stack, settings)
        containment = _containment(stack, settings)
        registry = build_registry(settings, containment)
        strategies = build_strategies(settings)
        executors = registry.executors(settings.worker.allowed_executors)
        if settings.database.is_postgres:
            await upgrade_postgres(settings.database.url)
            opening = _postgres_ground(settings, vitals, _POOL_OF_ALL)
        else:
            opening = _sqlite_ground(settings, vitals)
        ground = await stack.enter_async_context(opening)
        await _run_workers(stack, settings, ground, containment, executors, strategies, workers)
        await _run_dispatcher(stack, settings, ground, strategies)
        await _run_api(stack, settings, ground, vitals, registry, strategies, listener)
        _serve_as_api(stack, vitals, ground)
        yield Running(ground.store, registry, url_of(listener), vitals.url)


@asynccontextmanager
async def run_api(settings: Settings) -> AsyncIterator[Running]:
    """The API alone, on a database that it shares. Raises as `run_all_in_one` does."""
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings))
        strategies = build_strategies(settings)
        vitals = await _vitals(stack, settings)
        ground = await stack.enter_async_context(_shared_ground(settings, vitals, _POOL_OF_API))
        nothing_is_run = Containment(Path(settings.data_dir), owner="")
        registry = build_registry(settings, nothing_is_run)
        await _run_api(stack, settings, ground, vitals, registry, strategies, listener)
        _serve_as_api(stack, vitals, ground)
        yield Running(ground.store, registry, url_of(listener), vitals.url)


@asynccontextmanager
async def run_dispatcher(settings: Settings) -> AsyncIterator[str | None]:
    """A dispatcher alone, on a database that it shares; the URL of its probes.

    Raises as `run_all_in_one` does.
    """
    async with contextlib.AsyncExitStack() as stack:
        strategies = build_strategies(settings)
        vitals = await _vitals(stack, settings)
        opening = _shared_ground(settings, vitals, _POOL_OF_DISPATCHER)
        ground = await stack.enter_async_context(opening)
        await _run_dispatcher(stack, settings, ground, strategies)
        _serve(stack, vitals, ground.components)
        yield vitals.url


@asynccontextmanager
async def run_worker(settings: Settings) -> AsyncIterator[str | None]:
    """A worker alone, on a database that it shares; the URL of its probes.

    Raises as `run_all_in_one` does.
    """
    async with contextlib.AsyncExitStack() as stack:
        strategies = build_strategies(settings)
        vitals = await _vitals(stack, settings)
        containment = _containment(stack, settings)
        executors = build_registry(settings, containment).executors(
            settings.worker.allowed_executors
        )
        ground = await stack.enter_async_context(_shared_ground(settings, vitals, _POOL_OF_WORKER))
        await _run_workers(stack, settings, ground, containment, executors, strategies, 1)
        _serve(stack, vitals, ground.components)
        yield vitals.url


async def _vitals(stack: contextlib.AsyncExitStack, settings: Settings) -> Vitals:
    """To be asked from now on until all the rest is closed."""
    vitals = Vitals(SystemClock())
    vitals.url = await stack.enter_async_context(
        serve_probes(settings.observability, vitals.health, vitals.metrics.render_own)
    )
    return vitals


def _serve(
    stack: contextlib.AsyncExitStack, vitals: Vitals, components: Sequence[Component]
) -> None:
    """It is ready, until it begins to close: that is what the stack does first."""
    vitals.health.serve(components)
    stack.callback(vitals.health.drain)


def _serve_as_api(stack: contextlib.AsyncExitStack, vitals: Vitals, ground: Ground) -> None:
    """What is triggered is in the database, and waits there for a broker that is gone."""
    components = [
        msgspec.structs.replace(each, is_needed=each.name == _DATABASE)
        for each in ground.components
    ]
    _serve(stack, vitals, components)


@asynccontextmanager
async def _sqlite_ground(settings: Settings, vitals: Vitals) -> AsyncIterator[Ground]:
    """A file, and what is in this process."""
    if settings.message_queue.url not in {"", "memory://"}:
        said = "must be memory:// where the database is a file, which one process has for itself"
        raise InvalidSettings([Problem("message_queue.url", said)])
    if settings.database.read_url is not None:
        said = "a file has no replica; leave it out, or set database.url to postgresql://…"
        raise InvalidSettings([Problem("database.read_url", said)])
    clock, wakeups = vitals.clock, MemoryWakeups()
    database = settings.database_file
    _make_directory_of(database)
    store = await SqliteStore.open(
        database,
        clock,
        wakeups,
        [vitals.metrics],
        readers=settings.database.pool_size or _SQLITE_READERS,
    )
    try:
        yield Ground(store, MemoryQueue(), wakeups, clock, [Component(_DATABASE, store.check)])
    finally:
        await store.close()


@asynccontextmanager
async def _shared_ground(
    settings: Settings, vitals: Vitals, pool_size: int
) -> AsyncIterator[Ground]:
    """A database that other processes use as well, brought up to date by whoever operates it."""
    if not settings.database.is_postgres:
        said = "must be postgresql://…, which the roles share; `tidemill up` needs no database"
        raise InvalidSettings([Problem("database.url", said)])
    await check_postgres(settings.database.url)
    async with _postgres_ground(settings, vitals, pool_size) as ground:
        yield ground


@asynccontextmanager
async def _postgres_ground(
    settings: Settings, vitals: Vitals, pool_size: int
) -> AsyncIterator[Ground]:
    clock, url = vitals.clock, settings.database.url
    wakeups = PostgresWakeups(url)
    pool_size = settings.database.pool_size or pool_size
    async with contextlib.AsyncExitStack() as stack:
        breaker = _breaker(settings, vitals, _DATABASE)
        pool = reading = await stack.enter_async_context(open_pool(url, pool_size, breaker))
        if settings.database.read_url is not None:
            reading_breaker = _breaker(settings, vitals, "database_replica")
            replica = open_pool(settings.database.read_url, pool_size, reading_breaker)
            reading = await stack.enter_async_context(replica)
        sinks: list[EventSink] = [vitals.metrics]
        queue: MessageQueue = PostgresQueue(pool, wakeups)
        store = PostgresStore(pool, wakeups, sinks, reading=reading)
        components = [Component(_DATABASE, store.check, breaker.read)]
        if (broker := _broker(settings, clock, sinks)) is not None:
            breaker = _breaker(settings, vitals, _MESSAGE_QUEUE)
            queue = GuardedQueue(broker, breaker)
            components.append(Component(_MESSAGE_QUEUE, queue.check, breaker.read))
        stack.push_async_callback(queue.close)
        stack.push_async_callback(store.close)
        await wakeups.start()
        stack.push_async_callback(wakeups.stop)
        yield Ground(store, queue, wakeups, clock, components)


def _breaker(settings: Settings, vitals: Vitals, component: str) -> CircuitBreaker:
    options = BreakerOptions(**settings.circuit_breaker.model_dump())
    breaker = CircuitBreaker(component, options, vitals.clock)
    vitals.metrics.watch(breaker.read)
    return breaker


def _broker(settings: Settings, clock: Clock, sinks: list[EventSink]) -> MessageQueue | None:
    """The broker that is named, which is told how runs go; None where it is the database."""
    url, require_tls = settings.message_queue.url, settings.message_queue.require_tls
    broker: RedisStreamsQueue | RabbitMqQueue
    match url.partition("://")[0]:
        case "redis" | "rediss":
            broker = RedisStreamsQueue(url, clock, require_tls=require_tls)
        case "amqp" | "amqps":
            broker = RabbitMqQueue(url, clock, require_tls=require_tls)
        case "memory":
            said = "is for one process; leave it out, or name a broker"
            raise InvalidSettings([Problem("message_queue.url", said)])
        case _:
            return None
    sinks.append(StatusMessages(broker.facts))
    return broker


async def _run_workers(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    containment: Containment,
    executors: dict[str, Executor],
    strategies: StrategyRegistry,
    workers: int,
) -> None:
    await containment.start()
    stack.push_async_callback(containment.close)
    if not settings.database.is_postgres:
        await ground.store.transact(recover_after_restart)
    for executor in executors.values():
        await executor.start()
        stack.push_async_callback(executor.close)
    for number in range(workers):
        name = f"{worker_name(settings)}-{number + 1}" if workers > 1 else None
        options = worker_options(settings, name)
        control_plane = StoreControlPlane(
            ground.store, ground.queue, ground.wakeups, ground.clock, strategies, options.lease
        )
        worker = WorkerService(
            control_plane,
            ground.wakeups,
            ground.clock,
            executors,
            options,
            containment.directory,
        )
        await worker.start()
        stack.push_async_callback(worker.stop)


async def _run_dispatcher(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    strategies: StrategyRegistry,
) -> None:
    options = _dispatcher_options(settings)
    dispatcher = Dispatcher(
        ground.store, ground.queue, ground.wakeups, ground.clock, strategies, options, _name()
    )
    await dispatcher.start()
    stack.push_async_callback(dispatcher.stop)


async def _run_api(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    vitals: Vitals,
    registry: ExecutorRegistry,
    strategies: StrategyRegistry,
    listener: socket.socket,
) -> None:
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


def _containment(stack: contextlib.AsyncExitStack, settings: Settings) -> Containment:
    """Of what this process runs: whoever holds its lock owns the task trees of that name, and
    nobody else's."""
    if not settings.database.is_postgres:  # the database's file has a lock already
        database = settings.database_file
        return Containment(database.with_name(f"{database.name}.run"), owner=str(database))
    name = quote(worker_name(settings), safe="")
    directory = Path(settings.data_dir).expanduser().resolve() / f"worker-{name}"
    _make_directory_of(directory)
    stack.enter_context(lock_file(directory.with_suffix(".lock")))
    return Containment(directory, owner=str(directory))


def build_strategies(settings: Settings) -> StrategyRegistry:
    """Every strategy that this version knows, and the default; raises InvalidSettings."""
    strategies = built_in_strategies()
    try:
        strategies.set_default(settings.dispatcher.strategy)
    except InvalidInput as error:
        raise InvalidSettings(
            [
                Problem(f"dispatcher.strategy{place.replace('/', '.')}", message)
                for place, message in error.problems
            ]
        ) from error
    return strategies


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


def _name() -> str:
    """Where to look for this process; no other has the same."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"


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


def _listen(settings: Settings) -> socket.socket:
    return listen(settings.api.host, settings.api.port, "api.port")


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
