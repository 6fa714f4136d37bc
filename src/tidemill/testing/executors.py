"""Executors that do what a test tells them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidemill.domain.outcome import Outcome, success
from tidemill.errors import Problem
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest

Script = Callable[[Execution, ExecutionReports, StopRequest], Awaitable[Outcome]]


class ScriptedExecutor:
    """Runs a coroutine in place of the task, and remembers what it was given.

    Without a script every attempt succeeds at once.
    """

    def __init__(self, script: Script | None = None, task_type: str = "shell") -> None:
        self.task_type = task_type
        self.executions: list[Execution] = []
        self._script = script
        self._began = asyncio.Condition()

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        return []

    async def start(self) -> None:
        """Nothing to prepare."""

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        self.executions.append(execution)
        async with self._began:
            self._began.notify_all()
        if self._script is None:
            return success()
        return await self._script(execution, reports, stop)

    async def close(self) -> None:
        """Nothing to free."""

    async def begun(self, count: int) -> None:
        """Return once so many attempts have begun."""
        async with self._began:
            await self._began.wait_for(lambda: len(self.executions) >= count)
