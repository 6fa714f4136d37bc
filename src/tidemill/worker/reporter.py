"""Tells the store how attempts go and how they ended, many in one transaction.

What comes while a transaction is under way shares the next one; the first never waits for
company. Output goes before the outcome that follows it.
"""

import asyncio
import logging
from functools import partial

from tidemill.application.record_outcomes import AttemptReport, record_outcomes
from tidemill.application.store_output import OutputReport, store_output
from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.store import Store, Transaction

_log = logging.getLogger("tidemill.worker")

_PAUSE_SECONDS = 0.2  # between tries while the database does not answer
_BATCH = 500


class Reporter:
    """One per worker; `flush` returns once all that was said before is stored."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._outputs: list[OutputReport] = []
        self._endings: list[tuple[AttemptReport, asyncio.Future[None]]] = []
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reporter")

    async def stop(self) -> None:
        if self._task is not None:
            await self.flush()
            self._task.cancel()
            await asyncio.wait([self._task])

    def say(self, report: OutputReport) -> None:
        """Store this soon."""
        self._outputs.append(report)
        self._note_work()

    async def record(self, report: AttemptReport) -> None:
        """Return once the outcome is recorded, or refused as stale."""
        recorded = asyncio.get_running_loop().create_future()
        self._endings.append((report, recorded))
        self._note_work()
        await recorded

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
                await self._store_for_sure(outputs, [report for report, _ in endings])
                for _, recorded in endings:
                    if not recorded.done():
                        recorded.set_result(None)
            self._idle.set()

    async def _store_for_sure(
        self, outputs: list[OutputReport], endings: list[AttemptReport]
    ) -> None:
        while True:
            try:
                await self._store.transact(partial(_report, outputs=outputs, endings=endings))
            except Unavailable as error:
                _log.warning("reports wait: %s", error)
            except Exception:
                _log.exception("reports wait: storing them failed")
            else:
                return
            await self._clock.sleep(_PAUSE_SECONDS)


def _report(
    transaction: Transaction, outputs: list[OutputReport], endings: list[AttemptReport]
) -> None:
    if outputs:
        store_output(transaction, outputs)
    if endings:
        record_outcomes(transaction, endings)
