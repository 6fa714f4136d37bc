"""Reports how attempts go and how they ended, many in one call.

What comes while a call is under way shares the next one; the first never waits for company.
Output goes before the outcome that follows it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import (
    AttemptReport,
    ControlPlane,
    GoOn,
    OutputReport,
)

_log = logging.getLogger("tidemill.worker")

_FIRST_PAUSE_SECONDS = 0.2  # between tries while nobody takes reports; it grows
_LONGEST_PAUSE_SECONDS = 2.0
_BATCH = 500


class Reporter:
    """One per worker; `flush` returns once all that was said before is stored.

    `go_on` says, when attempts have ended, where the worker would begin what that makes ready.
    `recorded` is told which ends are recorded, or were refused as stale.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        clock: Clock,
        go_on: Callable[[], GoOn | None],
        recorded: Callable[[Sequence[AttemptReport]], None],
    ) -> None:
        self._control_plane = control_plane
        self._go_on = go_on
        self._recorded = recorded
        self._clock = clock
        self._outputs: list[OutputReport] = []
        self._endings: list[AttemptReport] = []
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reporter")

    async def stop(self, within_seconds: float) -> None:
        """Report what is left, unless nobody takes it within so many seconds."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(within_seconds):
                await self.flush()
        except TimeoutError:
            _log.warning("nobody takes reports: what ran is taken back when its lease is over")
        self._task.cancel()
        await asyncio.wait([self._task])

    def say(self, report: OutputReport) -> None:
        """Store this soon."""
        self._outputs.append(report)
        self._note_work()

    def record(self, report: AttemptReport) -> None:
        """Store this soon, after what was said before it."""
        self._endings.append(report)
        self._note_work()

    async def flush(self) -> None:
        """Return once nothing waits to be stored."""
        await self._idle.wait()

    def _note_work(self) -> None:
        self._idle.clear()
        self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._outputs or self._endings:
                outputs, self._outputs = self._outputs, []
                endings, self._endings = self._endings[:_BATCH], self._endings[_BATCH:]
                await self._store_for_sure(outputs, endings)
                self._recorded(endings)
            self._idle.set()

    async def _store_for_sure(
        self, outputs: list[OutputReport], endings: list[AttemptReport]
    ) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._control_plane.report(outputs, endings, self._go_on())
            except Unavailable as error:
                _log.warning("reports wait: %s", error)
            except Exception:
                _log.exception("reports wait: storing them failed")
            else:
                return
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
