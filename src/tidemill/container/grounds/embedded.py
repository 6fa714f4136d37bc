"""The ground of one process alone: a file, and what is in its memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidemill.config.settings import Settings
from tidemill.container.directories import make_directory
from tidemill.container.grounds.ground import DATABASE, Ground
from tidemill.container.vitals import Vitals
from tidemill.errors import InvalidSettings, Problem
from tidemill.infrastructure.database.sqlite import SqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.observability.health import Component

_READERS = 2


@asynccontextmanager
async def embedded_ground(settings: Settings, vitals: Vitals) -> AsyncIterator[Ground]:
    """Raises InvalidSettings or Unavailable where something cannot be used as it is set."""
    if settings.message_queue.url not in {"", "memory://"}:
        said = "must be memory:// where the database is a file, which one process has for itself"
        raise InvalidSettings([Problem("message_queue.url", said)])
    if settings.database.read_url is not None:
        said = "a file has no replica; leave it out, or set database.url to postgresql://…"
        raise InvalidSettings([Problem("database.read_url", said)])
    clock, wakeups = vitals.clock, MemoryWakeups()
    database = settings.database_file
    make_directory(database.parent)
    store = await SqliteStore.open(
        database,
        clock,
        wakeups,
        [vitals.metrics],
        readers=settings.database.pool_size or _READERS,
    )
    try:
        yield Ground(store, MemoryQueue(), wakeups, clock, [Component(DATABASE, store.check)])
    finally:
        await store.close()
