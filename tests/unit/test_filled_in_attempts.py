"""An attempt in a worker whose arguments have placeholders, just before its executor has it."""

import asyncio
from datetime import timedelta
from typing import Any, cast

from tidemill.domain.outcome import Outcome
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.testing.inline import InlineScheduler
from tidemill.worker.execution import RunningAttempt
from tidemill.worker.executors.http import HttpExecutor
from tidemill.worker.in_tasks import as_direct
from tidemill.worker.reporter import Reporter


class WatchedHttp(HttpExecutor):
    """Checks as the real one, and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.executions: list[Execution] = []

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        self.executions.append(execution)
        return Outcome(succeeded=True)


async def attempt(arguments: Any, parameters: dict[str, Any]) -> tuple[Outcome, WatchedHttp]:
    scheduler = InlineScheduler()
    scheduler.register()
    task = scheduler.create(executor="http", command="http://host/", arguments=arguments)
    run = scheduler.start(scheduler.trigger(task, parameters=parameters))
    executor = WatchedHttp()
    claimed = ClaimedRun(run, task.definition, None, None)
    running = RunningAttempt(claimed, cast("Reporter", None), timedelta(seconds=1))
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    running.begin(as_direct(executor), ended.set_result)
    return await ended, executor


async def test_an_executor_is_given_arguments_that_are_filled_in() -> None:
    arguments = {"json": {"n": "${{ parameters.n }}", "of": "${{ run.task_name }}"}}
    outcome, executor = await attempt(arguments, {"n": 3})

    assert outcome.succeeded
    assert executor.executions[0].arguments == {"json": {"n": 3, "of": "a-task"}}


async def test_a_value_adds_no_header_and_the_attempt_does_not_start() -> None:
    arguments = {"headers": {"X-Day": "${{ parameters.day }}"}}
    for day in ("a\r\nX-Evil: b", "a\nb", "a\0b"):
        outcome, executor = await attempt(arguments, {"day": day})
        assert (outcome.reason, executor.executions) == ("template", [])
        assert "/arguments/headers" in (outcome.error_message or "")


async def test_a_value_that_is_not_there_fails_the_attempt_before_it_starts() -> None:
    outcome, executor = await attempt({"body": "${{ parameters.day }}"}, {"night": 1})

    assert (outcome.reason, executor.executions) == ("template", [])
    assert outcome.error_message == (
        "${{ parameters.day }}: parameters has no field 'day'; its fields: night"
    )
