"""Attempts that a worker begins: their one end, and the instant at which they have to."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

from tidemill.domain.outcome import Outcome, success
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.executor import (
    DirectExecutor,
    Ended,
    Execution,
    ExecutionReports,
    StopRequest,
)
from tidemill.testing.clock import FakeClock, run_in_virtual_time
from tidemill.testing.executors import ScriptedExecutor
from tidemill.testing.inline import InlineScheduler
from tidemill.worker.deadlines import Deadlines
from tidemill.worker.execution import RunningAttempt
from tidemill.worker.in_tasks import as_direct
from tidemill.worker.reporter import Reporter


class Direct(ScriptedExecutor):
    """Begins as it is told to."""

    def __init__(self, ends: int, error: Exception | None = None) -> None:
        super().__init__()
        self._ends = ends
        self._error = error

    def begin(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        for _ in range(self._ends):
            ended(success())
        if self._error is not None:
            raise self._error


class Attempts:
    """Attempts of one task, and the causes for which they were ended."""

    def __init__(self) -> None:
        self._scheduler = InlineScheduler()
        self._scheduler.register(max_concurrent_tasks=1_000)
        self._task = self._scheduler.create(overlap="allow")
        self.deadlines = Deadlines()

    def make(self, timeout: float | None = None, deadline: float | None = None) -> RunningAttempt:
        run = self._scheduler.start(self._scheduler.trigger(self._task))
        claimed = ClaimedRun(_with(run, timeout_seconds=timeout), self._task.definition, None)
        claimed = _with(claimed, deadline_seconds=deadline)
        return RunningAttempt(claimed, cast("Reporter", None), timedelta(seconds=1))

    def watched(self, timeout: float | None, deadline: float | None = None) -> RunningAttempt:
        attempt = self.make(timeout, deadline)
        self.deadlines.watch(attempt)
        return attempt


def _with(struct: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(struct, **fields)


def outcomes_of(executor: DirectExecutor | None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    Attempts().make().begin(executor, outcomes.append)
    return outcomes


@pytest.mark.parametrize("ends", [0, 1, 2])
def test_an_attempt_ends_once_whatever_its_executor_does(ends: int) -> None:
    [outcome] = outcomes_of(Direct(ends, ValueError("a defect")))

    assert outcome.succeeded is (ends > 0)
    assert outcome.error_message == (None if ends else "ValueError: a defect")


def test_an_attempt_without_an_executor_says_so() -> None:
    [outcome] = outcomes_of(None)

    assert outcome.reason == "no_executor"


async def test_a_defect_of_a_coroutine_is_an_outcome() -> None:
    async def fail(*_: Any) -> Outcome:
        raise ValueError("a defect")

    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    Attempts().make().begin(as_direct(ScriptedExecutor(fail)), outcome.set_result)

    assert (await outcome).error_message == "ValueError: a defect"


def test_each_attempt_is_to_end_when_its_own_time_is_up_whatever_came_first() -> None:
    clock = FakeClock()

    async def story() -> None:
        attempts = Attempts()
        ended: list[tuple[str, float]] = []
        for name, timeout, deadline in (
            ("late", 20.0, 30.0), ("soon", 5.0, None), ("by its deadline", 90.0, 10.0),
            ("never", None, None),
        ):  # fmt: skip
            watched = attempts.watched(timeout, deadline)
            watched.stop.on_request(lambda name=name: ended.append((name, clock.monotonic())))
        began = clock.monotonic()
        await clock.sleep(15)
        times = [(name, round(at - began, 3)) for name, at in ended]
        assert times == [("soon", 5), ("by its deadline", 10)]
        await clock.sleep(100)
        assert [name for name, _ in ended] == ["soon", "by its deadline", "late"]

    run_in_virtual_time(story(), clock)


def test_what_ended_by_itself_is_left_alone_and_kept_no_longer_than_others_of_its_kind() -> None:
    clock = FakeClock()

    async def story() -> None:
        attempts = Attempts()
        lasting = attempts.watched(1_000.0)
        quick = [attempts.watched(2_000.0) for _ in range(200)]
        for attempt in quick:
            attempt.begin(Direct(1), lambda _: attempts.deadlines.forget_one())
        assert len(attempts.deadlines) < 200
        await clock.sleep(3_000)

        assert lasting.stop.is_requested
        assert not any(attempt.stop.is_requested for attempt in quick)

    run_in_virtual_time(story(), clock)
