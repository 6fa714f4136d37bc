"""A dispatcher, by its settings."""

import contextlib
import os
import socket
from uuid import uuid4

from tidemill.config.settings import Settings
from tidemill.container.grounds.ground import Ground
from tidemill.dispatcher.dispatcher import Dispatcher, DispatcherOptions
from tidemill.domain.strategies.registry import StrategyRegistry


async def start_dispatcher(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    strategies: StrategyRegistry,
) -> None:
    """Fire, dispatch, recover and prune until the stack is closed."""
    options = _options(settings)
    dispatcher = Dispatcher(
        ground.store, ground.queue, ground.wakeups, ground.clock, strategies, options, _name()
    )
    await dispatcher.start()
    stack.push_async_callback(dispatcher.stop)


def _options(settings: Settings) -> DispatcherOptions:
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
