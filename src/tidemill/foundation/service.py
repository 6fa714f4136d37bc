"""Loops: when something happens. What happens is a step that is handed in."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from tidemill.errors import Unavailable
from tidemill.foundation.wakeups import Wakeup

_log = logging.getLogger("tidemill.loop")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

Step = Callable[[], Awaitable[float]]


class Service(Protocol):
    """Something that is started once and stopped once; stopping twice, or unstarted, is allowed."""

    async def start(self) -> None:
        """Begin; returns when it works."""

    async def stop(self) -> None:
        """End, and return when it has ended."""


class Loop:
    """Runs a step, waits as long as the step says or until it is woken, and runs it again.

    A step that fails is logged and run again after a pause that grows up to
    `longest_pause_seconds`; the loop never ends by itself. `rounds` counts the steps that
    succeeded, for whoever waits for one.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        wakeup: Wakeup,
        longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.name = name
        self._longest_pause_seconds = longest_pause_seconds
        self.rounds = 0
        self._step = step
        self._wakeup = wakeup
        self._task: asyncio.Task[None] | None = None
        self._round_done = asyncio.Condition()

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._wakeup.close()

    async def next_round(self) -> None:
        """Return after a step that begins after this call has succeeded."""
        target = self.rounds + 2  # the step under way may have looked already
        async with self._round_done:
            await self._round_done.wait_for(lambda: self.rounds >= target)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                wait_seconds = await self._step()
            except Unavailable as error:
                _log.warning("%s: %s; trying again in %.1f s", self.name, error, pause)
            except Exception:
                _log.exception("%s failed; trying again in %.1f s", self.name, pause)
            else:
                pause = _FIRST_PAUSE_SECONDS
                await self._tell_round()
                if wait_seconds > 0:
                    await self._wakeup.wait(wait_seconds)
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._longest_pause_seconds)

    async def _tell_round(self) -> None:
        self.rounds += 1
        async with self._round_done:
            self._round_done.notify_all()
