"""The loops of a worker on a virtual clock: when its trees end, and when it claims no more."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tidemill.application.manage_workers import drain_worker
from tidemill.application.recover_lost_runs import recover_after_restart, recover_lost_runs
from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task_run import AttemptOutcome
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import Unavailable
from tidemill.foundation.control_plane import Renewal
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.foundation.listing import PageRequest, WorkerFilter
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock, run_in_virtual_time
from tidemill.testing.conformance.control_plane_suite import ready_runs
from tidemill.testing.executors import ScriptedExecutor
from tidemill.worker.worker import WorkerOptions, WorkerService

LEASE_SECONDS = 10.0


class CutOff(StoreControlPlane):
    """A way that may be closed: calls are refused, or never answered."""

    is_refused = False
    is_silent = False

    async def renew(self, fences: Mapping[int, int]) -> Renewal:
        await self._pass()
        return await super().renew(fences)

    async def report(self, *reports: Any) -> None:
        await self._pass()
        await super().report(*reports)

    async def _pass(self) -> None:
        if self.is_silent:
            await asyncio.get_running_loop().create_future()
        if self.is_refused:
            raise Unavailable("nobody answers")


class House:
    """A store, a queue, and a worker whose tasks stay until they are to end."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wakeups = MemoryWakeups()
        self.store = InlineSqliteStore(self.clock, self.wakeups, schema=empty_schema())
        self.queue = MemoryQueue()
        self.way = CutOff(
            self.store,
            self.queue,
            self.wakeups,
            self.clock,
            built_in_strategies(),
            timedelta(seconds=LEASE_SECONDS),
        )
        self.executor = ScriptedExecutor(self._stay)
        self.ended_at: list[float] = []
        options = WorkerOptions(
            name="a-worker", hostname="host", version="0", max_concurrent_tasks=4,
            lease_seconds=LEASE_SECONDS, drain_seconds=5,
        )  # fmt: skip
        executors = {"shell": self.executor}
        self.worker = WorkerService(
            self.way, self.wakeups, self.clock, executors, options, Path("unused")
        )

    async def _stay(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        is_to_end = asyncio.Event()
        stop.on_request(is_to_end.set)
        await is_to_end.wait()
        self.ended_at.append(self.clock.monotonic())
        return failure("signal", "ended by signal 15", exit_code=-15)

    async def start_a_run(self) -> int:
        """The id of a run that the worker executes."""
        [run] = await ready_runs(self.store, self.queue)
        await self.executor.begun(len(self.executor.executions) + 1)
        return run.id

    async def workers(self) -> dict[str, WorkerStatus]:
        """Every incarnation, and how it is."""
        page = PageRequest("id", 100)
        found = await self.store.read(lambda reads: reads.list_workers(WorkerFilter(), page))
        return {each.id: each.status for each in found.items}

    async def sweep(self) -> None:
        """Take back what is over."""
        lease = timedelta(seconds=LEASE_SECONDS)
        await self.store.transact(
            lambda t: recover_lost_runs(t, 500, claim_within=lease, silent_after=lease)
        )

    async def row(self, run_id: int) -> Any:
        """The run as it stands."""
        return await self.store.read(lambda reads: reads.run(run_id))


def in_virtual_time(story: Callable[[House], Coroutine[Any, Any, None]]) -> None:
    house = House()

    async def told() -> None:
        await house.worker.start()
        await story(house)
        house.way.is_refused = house.way.is_silent = False
        await house.worker.stop()

    run_in_virtual_time(told(), house.clock)


@pytest.mark.parametrize("fault", ["is_refused", "is_silent"])
def test_a_tree_that_cannot_be_renewed_ends_before_its_lease(fault: str) -> None:
    async def story(house: House) -> None:
        run_id = await house.start_a_run()
        await house.worker.heartbeat.next_round()  # type: ignore[union-attr]
        lease_ends_at = (await house.row(run_id)).lease_expires_at
        setattr(house.way, fault, True)
        await house.clock.sleep(2 * LEASE_SECONDS)

        left = (lease_ends_at - house.clock.now()).total_seconds() + house.clock.monotonic()
        [ended_at] = house.ended_at
        assert left - LEASE_SECONDS / 3 - 0.1 <= ended_at <= left - LEASE_SECONDS / 3 + 0.1

    in_virtual_time(story)


def test_a_run_goes_on_when_renewals_fail_for_less_than_its_lease() -> None:
    async def story(house: House) -> None:
        run_id = await house.start_a_run()
        house.way.is_refused = True
        await house.clock.sleep(5.5)
        house.way.is_refused = False
        await house.clock.sleep(60)
        await house.sweep()

        assert house.ended_at == []
        assert (await house.row(run_id)).status is RunStatus.RUNNING

    in_virtual_time(story)


def test_a_worker_that_was_drained_by_hand_leaves_what_comes_to_others() -> None:
    async def story(house: House) -> None:
        run_id = await house.start_a_run()
        [worker_id] = await house.workers()
        other = await house.queue.subscribe(worker("another"))
        await house.store.transact(lambda t: drain_worker(t, worker_id))
        await house.worker.heartbeat.next_round()  # type: ignore[union-attr]
        await house.store.transact(lambda t: t.save_worker(worker("another", at=t.now)))
        [late] = await ready_runs(house.store, house.queue)

        await house.clock.sleep(1)
        delivery = other.received()
        assert delivery is not None
        assert delivery.message.run_ids == (late.id,)
        assert (await house.row(run_id)).status is RunStatus.RUNNING

    in_virtual_time(story)


def test_a_worker_that_is_declared_lost_while_it_drains_does_not_come_back() -> None:
    async def story(house: House) -> None:
        await house.start_a_run()
        stopping = asyncio.create_task(house.worker.stop())
        await asyncio.wait([stopping], timeout=0.1)
        await house.store.transact(recover_after_restart)  # its runs are taken back, and it is lost
        await stopping

        assert list((await house.workers()).values()) == [WorkerStatus.OFFLINE]

    in_virtual_time(story)


def test_a_worker_whose_reports_nobody_takes_ends_within_a_lease() -> None:
    async def story(house: House) -> None:
        run_id = await house.start_a_run()
        house.way.is_silent = True
        began = house.clock.monotonic()
        await house.worker.stop()

        assert house.clock.monotonic() - began <= 2 * LEASE_SECONDS
        house.clock.advance(timedelta(seconds=LEASE_SECONDS))
        await house.sweep()
        [attempt] = await house.store.read(lambda reads: reads.attempts(run_id))
        assert attempt.outcome is AttemptOutcome.LOST

    in_virtual_time(story)
