"""The API alone, on a database that it shares."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tidemill.config.settings import Settings
from tidemill.container.grounds.cluster import shared_ground
from tidemill.container.parts.api import start_api
from tidemill.container.parts.worker_settings import build_registry
from tidemill.container.serving import listen_for_api, url_of
from tidemill.container.strategies import build_strategies
from tidemill.container.vitals import open_vitals
from tidemill.worker.executors.containment import Containment

_POOL = 8  # connections to PostgreSQL that an API has use for


class Addresses(NamedTuple):
    """Where it answers; `probes_url` is None where nobody asks it apart."""

    url: str
    probes_url: str | None


@asynccontextmanager
async def run_api(settings: Settings) -> AsyncIterator[Addresses]:
    """Raises InvalidSettings or Unavailable where something cannot be used as it is set."""
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(listen_for_api(settings))
        strategies = build_strategies(settings)
        vitals = await open_vitals(stack, settings)
        ground = await stack.enter_async_context(shared_ground(settings, vitals, _POOL))
        nothing_is_run = Containment(Path(settings.data_dir), owner="")
        registry = build_registry(settings, nothing_is_run)
        await start_api(stack, settings, ground, vitals, registry, strategies, listener)
        yield Addresses(url_of(listener), vitals.url)
