"""One attempt that a process for Python functions is to run."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from tidemill.domain.outcome import Outcome, failure
from tidemill.foundation.executor import Ended, Execution, ExecutionReports, StopRequest


class Place(Protocol):
    """The process that has it."""

    def cancel(self, run: "PythonRun") -> None:
        """End it within the grace of its stop request."""


class PythonRun:
    """An attempt from when a process is sought for it to its end; it may go through several."""

    def __init__(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        self.command = execution.command
        self.told = msgspec.json.encode(execution)  # here, where an error is this run's alone
        self.reports = reports
        self.stop = stop
        self.is_over = False
        self.id = 0  # in its place
        self._place: Place | None = None
        self._ended = ended
        self._kill: asyncio.TimerHandle | None = None

    def heed_stop(self) -> None:
        """It is to end: at once where nobody has begun it."""
        if self._place is not None:
            self._place.cancel(self)
        else:
            self.end(failure("cancelled", "stopped before a process was free"))

    def enter(self, place: Place, id: int) -> None:
        """A process has it, under this number."""
        self._place, self.id = place, id

    def leave(self) -> None:
        """It has ended there, or was not begun."""
        self._place = None
        if self._kill is not None:
            self._kill.cancel()

    def kill_later(self, kill: Callable[["PythonRun"], object]) -> None:
        """Call `kill` with it once the grace is over, unless it leaves before."""
        if self._kill is not None:
            self._kill.cancel()
        grace = self.stop.grace.total_seconds()
        self._kill = asyncio.get_running_loop().call_later(grace, kill, self)

    def end(self, outcome: Outcome) -> None:
        """Tell whoever waits for it; the first outcome stands."""
        if not self.is_over:
            self.is_over = True
            self._ended(outcome)
