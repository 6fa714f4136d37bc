"""A worker alone, on a database that it shares."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidemill.config.settings import Settings
from tidemill.container.grounds.cluster import shared_ground
from tidemill.container.parts.worker_settings import build_registry
from tidemill.container.parts.workers import containment_of, start_workers
from tidemill.container.strategies import build_strategies
from tidemill.container.vitals import open_vitals

_POOL = 4  # connections to PostgreSQL that a worker has use for


@asynccontextmanager
async def run_worker(settings: Settings) -> AsyncIterator[str | None]:
    """What it yields is the URL of its probes, where it has some.

    Raises InvalidSettings or Unavailable where something cannot be used as it is set; on leaving
    it drains.
    """
    async with contextlib.AsyncExitStack() as stack:
        strategies = build_strategies(settings)
        vitals = await open_vitals(stack, settings)
        containment = containment_of(stack, settings)
        registry = build_registry(settings, containment)
        executors = registry.executors(settings.worker.allowed_executors)
        ground = await stack.enter_async_context(shared_ground(settings, vitals, _POOL))
        await start_workers(stack, settings, ground, containment, executors, strategies)
        vitals.serve(stack, ground.components)
        yield vitals.url
