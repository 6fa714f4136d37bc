"""Executors whose attempts are coroutines, which is what most are, begun like direct ones."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from tidemill.domain.outcome import Outcome, failure
from tidemill.errors import Problem
from tidemill.foundation.executor import (
    DirectExecutor,
    Ended,
    Execution,
    ExecutionReports,
    Executor,
    StopRequest,
)


def as_direct(executor: Executor) -> DirectExecutor:
    """The executor itself where it can begin attempts, else one that does so for it."""
    if hasattr(executor, "begin"):
        return cast("DirectExecutor", executor)
    return InTasks(executor)


class InTasks:
    """Gives each attempt a task of the loop."""

    def __init__(self, executor: Executor) -> None:
        self.task_type = executor.task_type
        self._executor = executor
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself would forget them

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        return self._executor.check(command, arguments)

    async def start(self) -> None:
        await self._executor.start()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        return await self._executor.execute(execution, reports, stop)

    async def close(self) -> None:
        await self._executor.close()

    def begin(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        task = asyncio.create_task(
            self._run(execution, reports, stop, ended), name=f"run {execution.run_id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        try:
            outcome = await self._executor.execute(execution, reports, stop)
        except Exception as error:
            outcome = executor_error(error)
        ended(outcome)


def executor_error(error: Exception) -> Outcome:
    """An executor's defect must not leave a run without an end."""
    return failure("executor_error", f"{type(error).__name__}: {error}")
