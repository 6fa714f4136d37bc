"""A dispatcher's loops on time that jumps to whatever is next."""

from datetime import datetime, timedelta

import pytest

from tidemill.application.define_task import create_task
from tidemill.dispatcher.dispatcher import Dispatcher, DispatcherOptions
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.foundation.listing import PageRequest, RunFilter
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.testing.builders import definition
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
    dispatcher = Dispatcher(store, MemoryQueue(), wakeups, wrong, built_in_strategies(), options)

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
