"""Time that stands still until it is moved, and a loop that moves it to the next thing due.

    async def test_a_month_of_cron() -> None: ...

    run_in_virtual_time(test_a_month_of_cron(), clock)

While something is ready to run, no time passes; when everything waits, time jumps to the earliest
timer. A month of schedules takes as long as its work.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that is moved by hand, or by a `VirtualLoop`."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._passed = timedelta(0)

    def now(self) -> datetime:
        return self._start + self._passed

    def monotonic(self) -> float:
        return self._passed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def advance(self, by: timedelta) -> None:
        """Let this much time pass; never back."""
        assert by >= timedelta(0)
        self._passed += by

    def put(self, by: timedelta) -> None:
        """Set the wall clock ahead, or back where `by` is negative; no time passes."""
        self._start += by


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers are those of a FakeClock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._clock.monotonic()


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait for a timer, time jumps there instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            return super().select(None)
        # Rounded up, so that the timer is due when the loop looks again.
        self._clock.advance(timedelta(microseconds=int(timeout * 1_000_000) + 1))
        return []


def run_in_virtual_time(main: Coroutine[Any, Any, T], clock: FakeClock) -> T:
    """Run a coroutine to its end on a loop that jumps through time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main)
