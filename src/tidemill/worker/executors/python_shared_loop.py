"""The one process in which async Python functions share a loop."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from tidemill.domain.outcome import Outcome
from tidemill.worker.executors.python_process import Host, HostFailed, Owner, not_started
from tidemill.worker.executors.python_run import PythonRun


class SharedLoop:
    """Started for the first run, and anew where it died."""

    def __init__(self, start: Callable[[Owner], Awaitable[Host]]) -> None:
        self._start = start
        self._host: Host | None = None
        self._starting: asyncio.Future[Host] | None = None
        self._waiting: list[PythonRun] = []

    def take(self, run: PythonRun) -> None:
        """Give it to the process, at once or when there is one."""
        if self._host is not None and self._host.is_alive:
            self._host.begin(run)
            return
        self._waiting.append(run)
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start(self))
            self._starting.add_done_callback(self._started)

    def ended(self, host: Host, run: PythonRun, outcome: Outcome, seconds: float | None) -> None:
        run.end(outcome)

    def withdrawn(self, host: Host, run: PythonRun) -> None:
        self.take(run)

    def is_async(self, host: Host, run: PythonRun) -> None:
        self.take(run)

    async def close(self) -> None:
        if self._starting is not None:
            with contextlib.suppress(HostFailed):
                await self._starting
        if self._host is not None:
            await self._host.kill()

    def _started(self, starting: "asyncio.Future[Host]") -> None:
        self._starting = None
        error = starting.exception()
        if error is None:
            self._host = starting.result()
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            if error is not None:
                run.end(not_started(error))
            elif not run.is_over:
                self.take(run)
