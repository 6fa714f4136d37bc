"""Executors that do what a test tells them, and what a test needs to try an executor."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidemill.domain.outcome import Outcome, success
from tidemill.errors import Problem
from tidemill.foundation.executor import Execution, ExecutionReports, OutputChunk, StopRequest

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


class CollectedReports:
    """Keeps what an executor reports, and lets a test wait for it."""

    def __init__(self) -> None:
        self.chunks: list[OutputChunk] = []
        self.progresses: list[tuple[float | None, str]] = []
        self.checkpoints: list[Any] = []
        self._changed = asyncio.Event()

    def output(self, chunk: OutputChunk) -> None:
        self.chunks.append(chunk)
        self._changed.set()

    def progress(self, fraction: float | None, message: str) -> None:
        self.progresses.append((fraction, message))
        self._changed.set()

    def checkpoint(self, data: Any) -> None:
        self.checkpoints.append(data)
        self._changed.set()

    def text(self, stream: str = "stdout") -> str:
        """All that came on `stream` up to now."""
        return "".join(chunk.text for chunk in self.chunks if chunk.stream == stream)

    def lines(self, stream: str = "stdout") -> list[str]:
        """The same, by lines."""
        return self.text(stream).splitlines()

    async def until(self, is_so: "Callable[[CollectedReports], bool]") -> None:
        """Return once `is_so` of what was reported."""
        while not is_so(self):
            self._changed.clear()
            await self._changed.wait()
