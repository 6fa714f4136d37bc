"""The API in this process: the real application over a real database, without a socket."""

import httpx2

from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.application.trigger_runs import trigger_for_each
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.foundation.group_commit import GroupCommit
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.observability.health import Component, Health
from tidemill.observability.metrics import Metrics
from tidemill.testing.clock import FakeClock
from tidemill.testing.executors import ScriptedExecutor

HOST = "testserver"
MAX_BODY = 1024 * 1024


class InProcess:
    """An application on a database of its own and a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.wakeups = MemoryWakeups()
        registry = ExecutorRegistry()
        registry.register("shell", ScriptedExecutor)
        strategies = built_in_strategies()
        self.store = self.store_of(empty_schema())
        self.health = Health(self.clock)
        self.health.serve([Component("database", self._check_store)])
        self.context = ApiContext(
            store=self.store,
            wakeups=self.wakeups,
            queue=MemoryQueue(),
            clock=self.clock,
            check_task=lambda task: [*registry.check(task), *strategies.check(task)],
            strategies=strategies,
            health=self.health,
            render_metrics=self.metrics.render,
            version="0",
            max_body_bytes=MAX_BODY,
            max_artifact_bytes=2**26,
            allowed_hosts=frozenset({HOST}),
        )
        self.app = create_app(self.context)

    async def _check_store(self) -> None:
        await self.store.check()

    def empty(self) -> None:
        """Begin again with an empty database."""
        self.hold(empty_schema())

    def hold(self, data: bytes) -> None:
        """Begin again with a database that holds `data`."""
        self.store = self.context.store = self.store_of(data)
        self.context.triggers = GroupCommit(self.store, trigger_for_each)

    def store_of(self, data: bytes) -> InlineSqliteStore:
        """A database that holds `data`."""
        return InlineSqliteStore(self.clock, self.wakeups, [self.metrics], schema=data)

    def client(self, path: str = "/api/v1") -> httpx2.AsyncClient:
        """A client of the application, below `path`."""
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url=f"http://{HOST}{path}")
