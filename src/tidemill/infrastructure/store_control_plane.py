"""The way of a worker that reaches the database and the queue itself."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

from tidemill.application.claim_runs import claim_runs
from tidemill.application.fetch_artifact import fetch_chunk
from tidemill.application.go_on import report_and_go_on
from tidemill.application.manage_workers import drain_worker, register_worker, sign_off_worker
from tidemill.application.next_in_line import claim_next
from tidemill.application.renew_leases import renew_leases
from tidemill.application.store_artifact import store_chunk
from tidemill.application.take_reports import take_reports
from tidemill.domain.artifact import ArtifactId
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.worker import Worker
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import (
    ArtifactChunk,
    AttemptReport,
    Begin,
    ClaimedRun,
    GoOn,
    OutputReport,
    Renewal,
    taking,
)
from tidemill.foundation.inbox import Inbox
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import Store, Transaction
from tidemill.foundation.wakeups import Topic, Wakeups


class StoreControlPlane:
    """One worker's: a claim is a transaction, of what the queue brings, or of what is next in line
    where the queue does not carry that."""

    def __init__(
        self,
        store: Store,
        queue: MessageQueue,
        wakeups: Wakeups,
        clock: Clock,
        strategies: StrategyRegistry,
        lease: timedelta,
    ) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._strategies = strategies
        self._lease = lease
        self._worker: Worker
        self._inbox: Inbox | None = None
        self.reaches_line = not queue.carries_all
        self._line = wakeups.listen(Topic.CLAIMABLE)
        self._may_be_in_line = True
        self._looks = False
        self._reported = asyncio.Event()  # no report of it is under way that might go on
        self._reported.set()

    async def register(self, worker: Worker) -> Worker:
        stored = await self._store.transact(partial(register_worker, worker=worker))
        self._worker = stored
        self._may_be_in_line = True  # before it could look
        self._inbox = Inbox(await self._queue.subscribe(stored))
        return stored

    async def claim(self, slots: Slots, begin: Begin) -> None:
        assert self._inbox is not None
        await slots.wait_free()  # whoever has none keeps nobody else from what the queue brings
        await self._inbox.wait()
        await slots.wait_free()
        hints = self._inbox.take_now(slots.free)
        with taking(slots, len(hints), begin) as (_, begin_in_them):
            try:
                await self._begin_what(
                    partial(
                        claim_runs,
                        worker_id=self._worker.id,
                        run_ids=[run_id for run_id, _ in hints],
                        lease=self._lease,
                    ),
                    begin_in_them,
                )
            except Exception:
                self._inbox.put_back(hints)
                raise
        await self._inbox.settle(hints)

    async def claim_next(self, slots: Slots, begin: Begin) -> None:
        if not self._may_be_in_line:
            await self._line.wait(None)
        self._may_be_in_line = True  # until this has looked
        while not slots.free:
            # Its reports go on with what is in line, and one of them may have all slots for a
            # moment: it looks where they have left it one.
            await slots.wait_free()
            await asyncio.sleep(0)  # whoever ended is about to be reported
            await self._reported.wait()
        self._looks = True
        try:
            with taking(slots, slots.free, begin) as (at_most, begin_in_them):
                await self._begin_what(partial(self._next_in_line, at_most=at_most), begin_in_them)
        finally:
            self._looks = False

    def _next_in_line(self, transaction: Transaction, at_most: int) -> Sequence[ClaimedRun]:
        claimed = claim_next(transaction, self._worker, at_most, self._lease, self._strategies)
        self._may_be_in_line = claimed.has_more
        return claimed.runs

    async def _begin_what(
        self, claim: Callable[[Transaction], Sequence[ClaimedRun]], begin: Begin
    ) -> None:
        asked_at = self._clock.monotonic()
        # Once asked for, a claim may be committed: it is waited for even while this is cancelled.
        claiming = asyncio.ensure_future(self._store.transact(claim))
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            begin(await claiming, asked_at)
            raise
        begin(claiming.result(), asked_at)

    async def stop_claiming(self, begin: Begin) -> None:
        await self.close()  # what is claimed was begun, before the claim was over

    async def close(self) -> None:
        if self._inbox is not None:
            inbox, self._inbox = self._inbox, None
            await inbox.close()

    async def renew(self, fences: Mapping[int, int]) -> Renewal:
        return await self._store.transact(
            partial(renew_leases, worker_id=self._worker.id, fences=fences, lease=self._lease)
        )

    async def report(
        self,
        outputs: Sequence[OutputReport],
        endings: Sequence[AttemptReport],
        go_on: GoOn | None = None,
    ) -> None:
        if go_on is None or not endings:
            await self._store.transact(partial(take_reports, outputs=outputs, endings=endings))
            return
        assert self._inbox is not None
        free = go_on.slots.free - self._inbox.waiting  # what was handed to it goes first
        with taking(go_on.slots, max(free, 0), go_on.begin) as (at_most, begin):
            report = partial(
                report_and_go_on,
                outputs=outputs,
                endings=endings,
                worker=self._worker,
                at_most=at_most,
                lease=self._lease,
                strategies=self._strategies,
                # While it looks it has the other slots, and is going to fill them.
                was_full=at_most <= len(endings) and not self._looks,
            )
            self._reported.clear()
            try:
                await self._begin_what(report, begin)
            finally:
                self._reported.set()

    async def store_chunk(self, chunk: ArtifactChunk) -> bool:
        return await self._store.transact(partial(store_chunk, chunk=chunk))

    async def fetch_chunk(self, run_id: int, fence: int, id: ArtifactId, number: int) -> bytes:
        return await self._store.transact(
            partial(fetch_chunk, run_id=run_id, fence=fence, id=id, number=number)
        )

    async def drain(self) -> None:
        await self._store.transact(partial(drain_worker, worker_id=self._worker.id))

    async def sign_off(self) -> None:
        await self._store.transact(partial(sign_off_worker, worker_id=self._worker.id))
