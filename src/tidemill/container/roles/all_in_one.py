"""API, dispatcher and workers in one process."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from tidemill.config.settings import Settings
from tidemill.container.grounds.ground import Ground
from tidemill.container.parts.api import start_api
from tidemill.container.parts.dispatcher import start_dispatcher
from tidemill.container.parts.worker_settings import build_registry
from tidemill.container.parts.workers import containment_of, start_workers
from tidemill.container.serving import listen_for_api, url_of
from tidemill.container.strategies import build_strategies
from tidemill.container.vitals import Vitals, open_vitals
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.foundation.store import Store


class AllInOne(NamedTuple):
    """What is running: the store for whoever sets it up, and the addresses for people."""

    store: Store
    registry: ExecutorRegistry
    url: str
    probes_url: str | None


@asynccontextmanager
async def run_all_in_one(settings: Settings, workers: int = 1) -> AsyncIterator[AllInOne]:
    """Raises InvalidSettings or Unavailable where something cannot be used as it is set; on
    leaving, drains in the order in which nothing is lost.
    """
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(listen_for_api(settings))
        vitals = await open_vitals(stack, settings)
        containment = containment_of(stack, settings)
        registry = build_registry(settings, containment)
        strategies = build_strategies(settings)
        executors = registry.executors(settings.worker.allowed_executors)
        ground = await stack.enter_async_context(_ground(settings, vitals))
        await start_workers(stack, settings, ground, containment, executors, strategies, workers)
        await start_dispatcher(stack, settings, ground, strategies)
        await start_api(stack, settings, ground, vitals, registry, strategies, listener)
        yield AllInOne(ground.store, registry, url_of(listener), vitals.url)


def _ground(settings: Settings, vitals: Vitals) -> AbstractAsyncContextManager[Ground]:
    """Only what it stands on is loaded."""
    if settings.database.is_postgres:
        from tidemill.container.grounds.cluster import migrated_ground

        return migrated_ground(settings, vitals)
    from tidemill.container.grounds.embedded import embedded_ground

    return embedded_ground(settings, vitals)
