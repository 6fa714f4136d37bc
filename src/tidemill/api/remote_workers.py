"""What the queue brings for workers that go through the API.

Nothing here need outlive the process: a worker that asks another process is served there, and what
this one holds for it goes back to the queue once it is silent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tidemill.domain.worker import Worker
from tidemill.foundation.inbox import Inbox
from tidemill.foundation.queue import Delivery, MessageQueue
from tidemill.foundation.wakeups import Topic, Wakeups

T = TypeVar("T")

Claim = Callable[[list[int]], Awaitable[tuple[T, bool]]]  # what came of it; were they tried?


class RemoteWorkers:
    """A desk for each, from its first claim until it leaves or is silent."""

    def __init__(self, queue: MessageQueue, wakeups: Wakeups) -> None:
        self._queue = queue
        self._wakeups = wakeups
        self._telling: asyncio.Task[None] | None = None
        self._desks: dict[str, _Desk] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def claim(
        self,
        worker: Worker,
        claim: Claim[T],
        *,
        at_most: int,
        wait_seconds: float,
        keep_seconds: float,
        unless: Callable[[], Awaitable[Any]],
    ) -> T:
        """What `claim` makes of up to so many runs that the queue names, as soon as it names one.

        It is given none where none came in time, or what `unless` waits for was first. The desk is
        kept for `keep_seconds` after this.
        """
        desk = self._desks.get(worker.id) or await self._open(worker)
        desk.keep()
        try:
            return await desk.claim(claim, at_most, wait_seconds, unless)
        finally:
            desk.leave_after(keep_seconds, lambda: self._leave_soon(worker.id, desk))

    async def _open(self, worker: Worker) -> "_Desk":
        opened = _Desk(Inbox(await self._queue.subscribe(worker)))
        desk = self._desks.setdefault(worker.id, opened)
        if desk is not opened:  # another request was quicker
            await opened.close()
        if self._telling is None and not self._queue.carries_all:
            self._telling = asyncio.create_task(self._tell_dispatchers())
        return desk

    async def _tell_dispatchers(self) -> None:
        """What any worker may have is to be dispatched: these cannot look for it themselves."""
        claimable = self._wakeups.listen(Topic.CLAIMABLE)
        try:
            while self._desks:
                self._wakeups.announce([Topic.READY])
                await claimable.wait(None)
        finally:
            claimable.close()
            self._telling = None

    def close(self) -> None:
        """Nobody is served here any more."""
        if self._telling is not None:
            self._telling.cancel()

    async def leave(self, worker_id: str) -> None:
        """Give back what is here for a worker that claims no more."""
        desk = self._desks.pop(worker_id, None)
        if desk is not None:
            desk.keep()
            await desk.close()

    def _leave_soon(self, worker_id: str, desk: "_Desk") -> None:
        if self._desks.get(worker_id) is desk:
            leaving = asyncio.create_task(self.leave(worker_id))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


class _Desk:
    """Where one worker is served."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._waiting: asyncio.Task[list[tuple[int, Delivery]]] | None = None
        self._silence: asyncio.TimerHandle | None = None

    async def claim(
        self,
        claim: Claim[T],
        at_most: int,
        wait_seconds: float,
        unless: Callable[[], Awaitable[Any]],
    ) -> T:
        hints = await self._take(at_most, wait_seconds, unless) if at_most else []
        try:
            answer, were_tried = await claim([run_id for run_id, _ in hints])
        except BaseException:
            self._inbox.put_back(hints)
            raise
        if were_tried:
            await self._inbox.settle(hints)
        else:
            self._inbox.put_back(hints)
        return answer

    async def _take(
        self, at_most: int, wait_seconds: float, unless: Callable[[], Awaitable[Any]]
    ) -> list[tuple[int, Delivery]]:
        if self._waiting is not None:
            self._waiting.cancel()  # nobody waits for the answer to the request before this one
        waiting = self._waiting = asyncio.create_task(self._inbox.take(at_most))
        over = asyncio.ensure_future(unless())
        try:
            await asyncio.wait(
                [waiting, over], timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            is_over = over.done()
            for each in (waiting, over):
                each.cancel()
            await asyncio.wait([waiting, over])
        hints = [] if waiting.cancelled() else waiting.result()
        if is_over:
            self._inbox.put_back(hints)
            return []
        return hints

    def keep(self) -> None:
        """Somebody is here."""
        if self._silence is not None:
            self._silence.cancel()

    def leave_after(self, seconds: float, leave: Callable[[], None]) -> None:
        """Call `leave` unless somebody comes before."""
        self.keep()
        self._silence = asyncio.get_running_loop().call_later(seconds, leave)

    async def close(self) -> None:
        """Give back what was not tried."""
        if self._waiting is not None:
            self._waiting.cancel()
        await self._inbox.close()
