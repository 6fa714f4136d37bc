"""A dispatcher's loops on time that jumps to whatever is next."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import pytest

from tidemill.application.define_task import create_task
from tidemill.application.manage_workers import register_worker
from tidemill.dispatcher.dispatcher import Dispatcher, DispatcherOptions
from tidemill.domain.duty import DutyLease
from tidemill.domain.events import EventType, RunEvent
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.errors import Unavailable
from tidemill.foundation.listing import PageRequest, RunFilter
from tidemill.foundation.queue import RunMessage
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import START, FakeClock, run_in_virtual_time


class WrongClock:
    """The database's clock, but for the hour."""

    def __init__(self, clock: FakeClock, by: timedelta) -> None:
        self._clock = clock
        self._by = by

    def now(self) -> datetime:
        return self._clock.now() + self._by

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_dispatcher_whose_wall_clock_is_wrong_fires_on_time_and_does_not_spin(
    hours: int,
) -> None:
    clock, wakeups = FakeClock(), MemoryWakeups()
    store = InlineSqliteStore(clock, wakeups, schema=empty_schema())
    at = START + timedelta(seconds=20)
    task = definition("once", schedule=f"@at {at.isoformat()}")
    store.transact_now(lambda t: create_task(t, task, lambda _: ()))
    wrong = WrongClock(clock, timedelta(hours=hours))
    options = DispatcherOptions(scan_interval_seconds=60)
    dispatcher = Dispatcher(
        store, MemoryQueue(), wakeups, wrong, built_in_strategies(), options, "dispatcher-1"
    )

    async def half_a_minute() -> int:
        await dispatcher.start()
        await clock.sleep(30)
        await dispatcher.stop()
        return dispatcher.firing.rounds

    rounds = run_in_virtual_time(half_a_minute(), clock)
    everything = PageRequest(limit=10, sort="id")
    [run] = store.read_now(lambda r: r.list_runs(RunFilter(), everything)).items
    assert run.created_at - at < timedelta(milliseconds=1)
    assert rounds < 10


class CreatedTogether:
    """An event sink: how many runs each commit made."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def publish(self, events: Sequence[RunEvent]) -> None:
        if count := sum(event.type is EventType.RUN_CREATED for event in events):
            self.counts.append(count)


def test_of_many_that_are_due_at_one_instant_the_first_wait_for_few_others() -> None:
    clock, wakeups, commits = FakeClock(), MemoryWakeups(), CreatedTogether()
    store = InlineSqliteStore(clock, wakeups, [commits], schema=empty_schema())
    instants = [(START + timedelta(seconds=20), 1_000), (START + timedelta(seconds=40), 40)]
    for at, count in instants:
        for number in range(count):
            task = definition(f"at-{at.second}-{number}", schedule=f"@at {at.isoformat()}")
            store.transact_now(partial(create_task, definition=task, check=lambda _: ()))
    dispatcher = Dispatcher(
        store,
        MemoryQueue(),
        wakeups,
        clock,
        built_in_strategies(),
        DispatcherOptions(scan_batch=300),
        "dispatcher-1",
    )

    async def a_minute() -> None:
        await dispatcher.start()
        await clock.sleep(60)
        await dispatcher.stop()

    run_in_virtual_time(a_minute(), clock)
    assert commits.counts == [32, 64, 128, 256, 300, 220, 32, 8]


class QueueThatMayBeAway(MemoryQueue):
    """Takes nothing while it is away; nothing starts without it."""

    carries_all = True

    is_away = True

    async def check(self) -> None:
        if self.is_away:
            raise Unavailable("the queue is away", was_reached=False)

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        if messages:
            await self.check()
        await super().publish(messages)


def test_what_the_queue_did_not_take_waits_for_it_and_is_dispatched_when_it_is_back() -> None:
    clock, wakeups, queue = FakeClock(), MemoryWakeups(), QueueThatMayBeAway()
    store = InlineSqliteStore(clock, wakeups, schema=empty_schema())
    roomy = worker(max_concurrent_tasks=100)
    task = definition("often", schedule="@every 1s", overlap="allow")
    store.transact_now(lambda t: create_task(t, task, lambda _: ()))
    store.transact_now(lambda t: register_worker(t, roomy))
    options = DispatcherOptions(silent_after_seconds=60)
    dispatcher = Dispatcher(
        store, queue, wakeups, clock, built_in_strategies(), options, "dispatcher-1"
    )

    def statuses() -> set[RunStatus]:
        everything = PageRequest(limit=100, sort="id")
        runs = store.read_now(lambda r: r.list_runs(RunFilter(), everything)).items
        return {run.status for run in runs}

    async def story() -> int:
        subscription = await queue.subscribe(roomy)
        await dispatcher.start()
        await clock.sleep(10.5)
        assert statuses() == {RunStatus.PENDING}  # fired on time, and handed to nobody
        queue.is_away = False
        await clock.sleep(2.1)  # the longest pause of a loop that failed
        received = 0
        while delivery := subscription.received():
            received += len(delivery.message.run_ids)
        await dispatcher.stop()
        return received

    assert run_in_virtual_time(story(), clock) == 12
    assert statuses() == {RunStatus.DISPATCHED}


class Two:
    """Two dispatchers on one database, in virtual time."""

    def __init__(self) -> None:
        self.clock, self.wakeups, self.queue = FakeClock(), MemoryWakeups(), MemoryQueue()
        self.store = InlineSqliteStore(self.clock, self.wakeups, schema=empty_schema())
        options = DispatcherOptions(keep_history_seconds=60)
        self.dispatchers = {
            name: Dispatcher(
                self.store,
                self.queue,
                self.wakeups,
                self.clock,
                built_in_strategies(),
                options,
                name,
            )
            for name in ("one", "two")
        }

    def leases(self) -> dict[str, DutyLease]:
        """By duty."""
        return {lease.duty: lease for lease in self.store.read_now(lambda r: r.duties())}

    def holders(self) -> dict[str, tuple[str, int]]:
        """By duty, who has it and with which fence."""
        now = self.clock.now()
        return {
            duty: (lease.holder, lease.fence)
            for duty, lease in self.leases().items()
            if lease.is_held(now)
        }

    async def started(self) -> None:
        """`one` has the duties, and `two` asked for them."""
        for dispatcher in self.dispatchers.values():
            await dispatcher.start()
            await asyncio.gather(dispatcher.retention.next_round(), dispatcher.tidying.next_round())


def test_what_one_dispatcher_does_for_all_is_anothers_at_once_when_it_stops() -> None:
    two = Two()

    async def story() -> None:
        await two.started()
        assert two.holders() == {"prune_history": ("one", 1), "tidy_queue": ("one", 1)}
        stopped_at = two.clock.now()
        await two.dispatchers["one"].stop()
        await two.clock.sleep(0.001)
        assert two.holders() == {"prune_history": ("two", 2), "tidy_queue": ("two", 2)}
        assert two.clock.now() - stopped_at < timedelta(seconds=1)
        await two.dispatchers["two"].stop()
        assert two.holders() == {}

    run_in_virtual_time(story(), two.clock)


def test_what_a_dispatcher_did_for_all_that_died_is_anothers_when_its_lease_is_over() -> None:
    two = Two()

    async def story() -> None:
        await two.started()
        for loop in (two.dispatchers["one"].retention, two.dispatchers["one"].tidying):
            await loop.stop()  # without a word to anybody
        until = two.leases()["prune_history"].lease_expires_at
        await two.clock.sleep((until - two.clock.now()).total_seconds() - 0.001)
        assert two.holders()["prune_history"] == ("one", 1)
        await two.clock.sleep(two.dispatchers["two"]._options.duty_interval_seconds + 0.002)
        assert two.holders() == {"prune_history": ("two", 2), "tidy_queue": ("two", 2)}
        for dispatcher in two.dispatchers.values():
            await dispatcher.stop()

    run_in_virtual_time(story(), two.clock)


def test_a_dispatcher_that_goes_on_keeps_what_it_does_for_all() -> None:
    two = Two()

    async def story() -> None:
        await two.started()
        await two.clock.sleep(600)
        assert two.holders() == {"prune_history": ("one", 1), "tidy_queue": ("one", 1)}
        for dispatcher in two.dispatchers.values():
            await dispatcher.stop()

    run_in_virtual_time(story(), two.clock)


def test_what_is_kept_for_a_worker_goes_when_the_worker_is_gone() -> None:
    two = Two()
    stays = two.store.transact_now(lambda t: register_worker(t, worker("stays")))
    lanes = [f"default/shell@{name}" for name in ("stays", "was-never-there")]

    async def story() -> set[str]:
        await two.queue.publish([RunMessage(lane, (1,)) for lane in lanes])
        await two.dispatchers["one"].start()
        await two.clock.sleep(1)  # much longer, and a worker that says nothing is lost
        kept = await two.queue.kept_for()
        await two.dispatchers["one"].stop()
        return kept

    assert run_in_virtual_time(story(), two.clock) == {stays.id}
