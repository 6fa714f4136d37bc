"""A dispatcher alone, on a database that it shares."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidemill.config.settings import Settings
from tidemill.container.grounds.cluster import shared_ground
from tidemill.container.parts.dispatcher import start_dispatcher
from tidemill.container.strategies import build_strategies
from tidemill.container.vitals import open_vitals

_POOL = 5  # connections to PostgreSQL that a dispatcher has use for


@asynccontextmanager
async def run_dispatcher(settings: Settings) -> AsyncIterator[str | None]:
    """What it yields is the URL of its probes, where it has some.

    Raises InvalidSettings or Unavailable where something cannot be used as it is set.
    """
    async with contextlib.AsyncExitStack() as stack:
        strategies = build_strategies(settings)
        vitals = await open_vitals(stack, settings)
        ground = await stack.enter_async_context(shared_ground(settings, vitals, _POOL))
        await start_dispatcher(stack, settings, ground, strategies)
        vitals.serve(stack, ground.components)
        yield vitals.url
