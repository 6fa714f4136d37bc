import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.errors import Unavailable
from tidemill.foundation.control_plane import ControlPlane
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import Store
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.http_control_plane import HttpControlPlane
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.observability.health import Health
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.control_plane_suite import (
    LEASE,
    Begun,
    ControlPlaneSuite,
    ready_runs,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return InlineSqliteStore(clock, MemoryWakeups(), schema=empty_schema())


@pytest.fixture
def queue() -> MessageQueue:
    return MemoryQueue()


class TestStoreControlPlane(ControlPlaneSuite):
    @pytest.fixture
    async def control_plane(
        self, store: Store, queue: MessageQueue, clock: FakeClock
    ) -> AsyncIterator[ControlPlane]:
        control_plane = StoreControlPlane(store, queue, clock, built_in_strategies(), LEASE)
        yield control_plane
        await control_plane.close()

    async def test_what_could_not_be_claimed_goes_to_others(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        clock: FakeClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await control_plane.register(worker("worker-1"))
        other = StoreControlPlane(store, queue, clock, built_in_strategies(), LEASE)
        await other.register(worker("worker-2"))
        [run] = await ready_runs(store, queue)
        begun = Begun()

        async def does_not_answer(_: object) -> None:
            raise Unavailable("the database does not answer")

        with monkeypatch.context() as patched:
            patched.setattr(store, "transact", does_not_answer)
            with pytest.raises(Unavailable):
                await control_plane.claim(Slots(1), begun)
        await control_plane.stop_claiming(begun)
        async with asyncio.timeout(10):
            await other.claim(Slots(1), begun)

        assert begun.ids == [run.id]
        await other.close()


def api_over(store: Store, queue: MessageQueue, clock: FakeClock) -> ApiContext:
    """What the API is given."""
    return ApiContext(
        store=store,
        wakeups=MemoryWakeups(),
        queue=queue,
        clock=clock,
        check_task=lambda _: (),
        strategies=built_in_strategies(),
        health=Health(clock),
        render_metrics=lambda _: b"",
        version="0",
        max_body_bytes=1_048_576,
        max_artifact_bytes=2**26,
        allowed_hosts=None,
    )


class TestHttpControlPlane(ControlPlaneSuite):
    @pytest.fixture
    async def control_plane(
        self, store: Store, queue: MessageQueue, clock: FakeClock
    ) -> AsyncIterator[ControlPlane]:
        transport = httpx2.ASGITransport(app=create_app(api_over(store, queue, clock)))
        http = httpx2.AsyncClient(transport=transport, base_url="http://server")
        control_plane = HttpControlPlane(http, clock, LEASE)
        yield control_plane
        await control_plane.close()
