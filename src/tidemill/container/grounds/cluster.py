"""The ground that many processes share: PostgreSQL, and a broker where one is named."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidemill.config.settings import Settings
from tidemill.container.grounds.ground import DATABASE, MESSAGE_QUEUE, Ground
from tidemill.container.vitals import Vitals
from tidemill.errors import InvalidSettings, Problem
from tidemill.foundation.clock import Clock
from tidemill.foundation.event_sink import EventSink
from tidemill.foundation.queue import FactSink, MessageQueue
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.postgres_schema import check_postgres, upgrade_postgres
from tidemill.infrastructure.postgres_wakeups import PostgresWakeups
from tidemill.infrastructure.queues.postgres import PostgresQueue
from tidemill.infrastructure.queues.status_messages import StatusMessages
from tidemill.infrastructure.resilience.circuit_breaker import BreakerOptions, CircuitBreaker
from tidemill.infrastructure.resilience.guarded_queue import GuardedQueue
from tidemill.observability.health import Component

_POOL_OF_ALL_ROLES = 12  # connections that a process of all roles has use for


@asynccontextmanager
async def shared_ground(
    settings: Settings, vitals: Vitals, pool_size: int
) -> AsyncIterator[Ground]:
    """A database that whoever operates it brings up to date.

    Raises InvalidSettings or Unavailable where something cannot be used as it is set.
    """
    if not settings.database.is_postgres:
        said = "must be postgresql://…, which the roles share; `tidemill up` needs no database"
        raise InvalidSettings([Problem("database.url", said)])
    await check_postgres(settings.database.url)
    async with _ground(settings, vitals, pool_size) as ground:
        yield ground


@asynccontextmanager
async def migrated_ground(settings: Settings, vitals: Vitals) -> AsyncIterator[Ground]:
    """A database that this process brings up to date itself; raises as `shared_ground` does."""
    await upgrade_postgres(settings.database.url)
    async with _ground(settings, vitals, _POOL_OF_ALL_ROLES) as ground:
        yield ground


@asynccontextmanager
async def _ground(settings: Settings, vitals: Vitals, pool_size: int) -> AsyncIterator[Ground]:
    clock, url = vitals.clock, settings.database.url
    wakeups = PostgresWakeups(url)
    pool_size = settings.database.pool_size or pool_size
    async with contextlib.AsyncExitStack() as stack:
        breaker = _breaker(settings, vitals, DATABASE)
        pool = reading = await stack.enter_async_context(open_pool(url, pool_size, breaker))
        if settings.database.read_url is not None:
            reading_breaker = _breaker(settings, vitals, "database_replica")
            replica = open_pool(settings.database.read_url, pool_size, reading_breaker)
            reading = await stack.enter_async_context(replica)
        sinks: list[EventSink] = [vitals.metrics]
        queue: MessageQueue = PostgresQueue(pool, wakeups)
        store = PostgresStore(pool, wakeups, sinks, reading=reading)
        components = [Component(DATABASE, store.check, breaker.read)]
        if (named := _broker(settings, clock)) is not None:
            broker, facts = named
            sinks.append(StatusMessages(facts))
            breaker = _breaker(settings, vitals, MESSAGE_QUEUE)
            queue = GuardedQueue(broker, breaker)
            components.append(Component(MESSAGE_QUEUE, queue.check, breaker.read))
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


def _broker(settings: Settings, clock: Clock) -> tuple[MessageQueue, FactSink] | None:
    """The broker that is named, and who tells it how runs go; None where it is the database.

    Only the driver of the one that is named is loaded.
    """
    url, require_tls = settings.message_queue.url, settings.message_queue.require_tls
    match url.partition("://")[0]:
        case "redis" | "rediss":
            from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue

            redis = RedisStreamsQueue(url, clock, require_tls=require_tls)
            return redis, redis.facts
        case "amqp" | "amqps":
            from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue

            rabbitmq = RabbitMqQueue(url, clock, require_tls=require_tls)
            return rabbitmq, rabbitmq.facts
        case "memory":
            said = "is for one process; leave it out, or name a broker"
            raise InvalidSettings([Problem("message_queue.url", said)])
        case _:
            return None
