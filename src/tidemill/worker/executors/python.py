"""Python tasks: `package.module:function`, in warm processes that can be killed."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from tidemill.domain.outcome import Outcome
from tidemill.errors import Problem
from tidemill.foundation.executor import Ended, Execution, ExecutionReports, StopRequest
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.python_pool import SyncPool
from tidemill.worker.executors.python_process import Host, Mode, Owner
from tidemill.worker.executors.python_run import PythonRun
from tidemill.worker.executors.python_shared_loop import SharedLoop


class PythonExecutor:
    """Sync functions one at a time in a process each; async ones together in one of their own."""

    task_type = "python"

    def __init__(
        self,
        containment: Containment,
        python_paths: Sequence[str],
        max_processes: int,
        max_result_bytes: int,
    ) -> None:
        self._containment = containment
        self._paths = list(python_paths)
        self._max_result_bytes = max_result_bytes
        self._pool = SyncPool(partial(self._start_host, "sync"), max_processes, self._move)
        self._shared_loop = SharedLoop(partial(self._start_host, "async"))
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
        await self._shared_loop.close()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.begin(execution, reports, stop, outcome.set_result)
        return await outcome

    def begin(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        run = PythonRun(execution, reports, stop, ended)
        stop.on_request(run.heed_stop)
        if run.is_over:
            return
        if run.command in self._async_commands:
            self._shared_loop.take(run)
        else:
            self._pool.take(run)

    def _move(self, run: PythonRun) -> None:
        """Its function is async, as nobody knew before."""
        self._async_commands.add(run.command)
        self._shared_loop.take(run)

    async def _start_host(self, mode: Mode, owner: Owner) -> Host:
        host = Host(mode, owner)
        await host.start(self._containment, self._paths, self._max_result_bytes)
        return host
