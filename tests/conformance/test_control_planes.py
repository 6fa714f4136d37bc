import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx2
import pytest

from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.application.define_task import create_task
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.errors import Unavailable
from tidemill.foundation.control_plane import ControlPlane, GoOn
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import Store, Transaction
from tidemill.foundation.wakeups import Topic, Wakeups
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.http_control_plane import HttpControlPlane
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.observability.health import Health
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.control_plane_suite import (
    LEASE,
    Begun,
    ControlPlaneSuite,
    ending,
    ready_runs,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def wakeups() -> Wakeups:
    return MemoryWakeups()


@pytest.fixture
def store(clock: FakeClock, wakeups: Wakeups) -> Store:
    return InlineSqliteStore(clock, wakeups, schema=empty_schema())


@pytest.fixture
def queue() -> MessageQueue:
    return MemoryQueue()


class TestStoreControlPlane(ControlPlaneSuite):
    @pytest.fixture
    async def control_plane(
        self, store: Store, queue: MessageQueue, wakeups: Wakeups, clock: FakeClock
    ) -> AsyncIterator[ControlPlane]:
        control_plane = StoreControlPlane(
            store, queue, wakeups, clock, built_in_strategies(), LEASE
        )
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
        other = StoreControlPlane(
            store, queue, MemoryWakeups(), clock, built_in_strategies(), LEASE
        )
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

    async def test_what_any_worker_may_have_is_claimed_without_a_message(
        self, store: Store, control_plane: ControlPlane
    ) -> None:
        """Once it is there, and once it has come while nothing was."""
        await control_plane.register(worker())
        made = await store.transact(lambda t: create_task(t, definition(), lambda _: ()))
        begun, slots = Begun(), Slots(2)
        for expected in range(1, 3):
            claiming = asyncio.create_task(claim_next_up_to(control_plane, slots, begun, expected))
            await asyncio.sleep(0)
            request = TriggerRequest(task=made.id)
            await store.transact(partial(trigger_runs, requests=[request]))
            async with asyncio.timeout(10):
                await claiming

        assert len(set(begun.ids)) == 2
        assert slots.free == 0

    async def test_what_comes_while_all_slots_are_taken_is_claimed_once_one_is_free(
        self, store: Store, control_plane: ControlPlane
    ) -> None:
        """A report has them for as long as it takes, though it may need none in the end."""
        await control_plane.register(worker())
        made = await store.transact(lambda t: create_task(t, definition(), lambda _: ()))
        begun, slots = Begun(), Slots(1)
        await control_plane.claim_next(slots, begun)  # nothing is there yet
        slots.take(1)
        claiming = asyncio.create_task(claim_next_up_to(control_plane, slots, begun, 1))
        requests = [TriggerRequest(task=made.id)]
        await store.transact(partial(trigger_runs, requests=requests))
        for _ in range(3):  # it hears of it
            await asyncio.sleep(0)
        slots.give_back()
        async with asyncio.timeout(10):
            await claiming

        assert len(begun.ids) == 1

    async def test_a_full_worker_goes_on_by_its_report_and_does_not_look_beside_it(
        self, store: Store, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even where a slot is free while the report is under way."""
        await control_plane.register(worker(max_concurrent_tasks=2))
        made = await store.transact(lambda t: create_task(t, definition(), lambda _: ()))
        requests = [TriggerRequest(task=made.id)] * 4
        await store.transact(partial(trigger_runs, requests=requests))
        begun, slots = Begun(), Slots(2)
        await control_plane.claim_next(slots, begun)
        assert (len(begun.ids), slots.free) == (2, 0)
        looking = asyncio.create_task(claim_next_up_to(control_plane, slots, begun, 4))
        await asyncio.sleep(0)

        transact, is_answered, asked = store.transact, asyncio.Event(), []

        async def transact_later(body: Callable[[Transaction], Any]) -> Any:
            asked.append(body)
            await is_answered.wait()
            return await transact(body)

        monkeypatch.setattr(store, "transact", transact_later)
        ends = [ending(begun.runs[0])]
        slots.give_back()  # of both who wait for it, the report has it
        reporting = asyncio.create_task(control_plane.report([], ends, GoOn(slots, begun)))
        await asyncio.sleep(0)
        slots.give_back()  # another attempt ends, and is going to be reported
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(asked) == 1
        is_answered.set()
        async with asyncio.timeout(10):
            await reporting
            await looking  # the slot that no report went on in

        assert (len(asked), len(set(begun.ids))) == (2, 4)

    async def test_a_broker_brings_all_that_is_to_be_claimed(
        self, store: Store, clock: FakeClock
    ) -> None:
        class Broker(MemoryQueue):
            carries_all = True

        way = StoreControlPlane(
            store, Broker(), MemoryWakeups(), clock, built_in_strategies(), LEASE
        )
        assert not way.reaches_line


async def claim_next_up_to(
    control_plane: ControlPlane, slots: Slots, begun: Begun, count: int
) -> None:
    """Claim again and again, as a worker does, until so many runs were begun."""
    while len(begun.ids) < count:
        await control_plane.claim_next(slots, begun)


def api_over(store: Store, queue: MessageQueue, wakeups: Wakeups, clock: FakeClock) -> ApiContext:
    """What the API is given."""
    return ApiContext(
        store=store,
        wakeups=wakeups,
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
        self, store: Store, queue: MessageQueue, wakeups: Wakeups, clock: FakeClock
    ) -> AsyncIterator[ControlPlane]:
        transport = httpx2.ASGITransport(app=create_app(api_over(store, queue, wakeups, clock)))
        http = httpx2.AsyncClient(transport=transport, base_url="http://server")
        control_plane = HttpControlPlane(http, clock, LEASE)
        yield control_plane
        await control_plane.close()

    async def test_what_any_worker_may_have_is_asked_of_the_dispatchers(
        self, wakeups: Wakeups, control_plane: ControlPlane
    ) -> None:
        """It cannot look for it itself."""
        assert not control_plane.reaches_line
        await control_plane.register(worker())
        claiming = asyncio.create_task(control_plane.claim(Slots(1), Begun()))
        dispatchers = wakeups.listen(Topic.READY)
        for _ in range(2):  # when it comes, and whenever there is some
            assert await dispatchers.wait(10)
            wakeups.announce([Topic.CLAIMABLE])
        claiming.cancel()
        await asyncio.wait([claiming])
