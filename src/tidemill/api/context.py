"""What every route may use; handed in by whoever assembles the application."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import Depends, Request

from tidemill.api.remote_workers import RemoteWorkers
from tidemill.application.queries.levels import Levels, levels_of
from tidemill.application.trigger_runs import trigger_for_each
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import TaskDefinition
from tidemill.errors import Problem, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.group_commit import GroupCommit
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.store import Store
from tidemill.foundation.wakeups import Topic, Wakeups
from tidemill.observability.health import PROBE_SECONDS, Health


class ApiContext:
    """The API's collaborators, and whether it still takes requests."""

    def __init__(
        self,
        *,
        store: Store,
        wakeups: Wakeups,
        queue: MessageQueue,
        clock: Clock,
        check_task: Callable[[TaskDefinition], Sequence[Problem]],
        strategies: StrategyRegistry,
        health: Health,
        render_metrics: Callable[[Levels | None], bytes],
        version: str,
        max_body_bytes: int,
        max_artifact_bytes: int,
        allowed_hosts: frozenset[str] | None,
    ) -> None:
        self.store = store
        self.wakeups = wakeups
        self.triggers = GroupCommit(store, trigger_for_each)
        self.remote_workers = RemoteWorkers(queue, wakeups)
        self.clock = clock
        self.check_task = check_task
        self.strategies = strategies
        self.health = health
        self._render_metrics = render_metrics
        self.version = version
        self.max_body_bytes = max_body_bytes
        self.max_artifact_bytes = max_artifact_bytes
        self.allowed_hosts = allowed_hosts
        # Whose tasks and runs callers see; None: all. Nobody can log in: it is the same for all.
        self.visible_namespace: str | None = None
        self.started_at = clock.now()
        self.closing = asyncio.Event()

    def close(self) -> None:
        """The server drains: `/ready` says so, and streams end."""
        self.health.drain()
        self.closing.set()
        self.remote_workers.close()
        self.wakeups.announce((Topic.EVENTS, Topic.OUTPUT))

    async def metrics(self) -> bytes:
        """Of this process and of all; without what only the database knows where that is down."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                levels = await self.store.read(levels_of)
        except (Unavailable, TimeoutError):
            levels = None
        return self._render_metrics(levels)


async def context_of(request: Request) -> ApiContext:
    """The context of the application that answers this request."""
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
