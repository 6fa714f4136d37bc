"""Python tasks: `package.module:function`, in warm processes that can be killed."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from tidemill.domain.outcome import Outcome, failure
from tidemill.errors import Problem
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.python_pool import SyncPool
from tidemill.worker.executors.python_process import Host, HostFailed, IsAsync, Mode, Withdrawn


class PythonExecutor:
    """Sync functions one at a time in a process each; async ones together in one of their own."""

    task_type = "python"

    def __init__(
        self, containment: Containment, python_paths: Sequence[str], max_processes: int
    ) -> None:
        self._containment = containment
        self._paths = list(python_paths)
        self._pool = SyncPool(self._start_host, max_processes)
        self._async_host: asyncio.Task[Host] | None = None
        self._async_commands: set[str] = set()

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        problems = []
        module, _, path = command.partition(":")
        names = [*module.split("."), *path.split(".")]
        if not all(name.isidentifier() for name in names):
            problems.append(Problem("/command", "must be package.module:function"))
        if not isinstance(arguments, dict):
            problems.append(Problem("/arguments", "must be a mapping of keyword arguments"))
        return problems

    async def start(self) -> None:
        """Have a process at hand for the first run; nobody waits for it here."""
        self._pool.open()

    async def close(self) -> None:
        await self._pool.close()
        if self._async_host is not None:
            with contextlib.suppress(HostFailed):
                await (await self._async_host).kill()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        try:
            while True:
                with contextlib.suppress(Withdrawn):
                    return await self._execute(execution, reports, stop)
        except HostFailed as error:
            return failure("not_started", f"no Python process could be started: {error}")

    async def _execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        command = execution.command
        if command in self._async_commands:
            host = await self._host_for_async()
            return (await host.run(execution, reports, stop)).outcome
        place = await self._pool.take(command, stop)
        if place is None:
            return failure("cancelled", "stopped before a process was free")
        try:
            ended = await place.run(execution, reports, stop)
        except IsAsync:
            self._async_commands.add(command)
            raise Withdrawn from None
        finally:
            self._pool.give_back(place, command)
        self._pool.learn(command, ended.seconds)
        return ended.outcome

    async def _host_for_async(self) -> "Host":
        if self._async_host is None or (
            self._async_host.done()
            and (self._async_host.exception() or not self._async_host.result().is_alive)
        ):
            self._async_host = asyncio.create_task(self._start_host("async"))
        return await asyncio.shield(self._async_host)

    async def _start_host(self, mode: Mode) -> "Host":
        host = Host(mode)
        await host.start(self._containment, self._paths)
        return host
