"""The way of a worker that reaches the database and the queue itself."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

from tidemill.application.claim_runs import claim_runs
from tidemill.application.manage_workers import drain_worker, register_worker, sign_off_worker
from tidemill.application.renew_leases import renew_leases
from tidemill.application.take_reports import take_reports
from tidemill.domain.worker import Worker
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import (
    AttemptReport,
    Begin,
    ClaimedRun,
    OutputReport,
    Renewal,
)
from tidemill.foundation.inbox import Inbox
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.store import Store


class StoreControlPlane:
    """One worker's: what the queue brings is claimed from the store, a transaction a claim."""

    def __init__(self, store: Store, queue: MessageQueue, clock: Clock, lease: timedelta) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._lease = lease
        self._worker_id = ""
        self._inbox: Inbox | None = None

    async def register(self, worker: Worker) -> Worker:
        stored = await self._store.transact(partial(register_worker, worker=worker))
        self._worker_id = stored.id
        self._inbox = Inbox(await self._queue.subscribe(stored))
        return stored

    async def claim(self, at_most: int, begin: Begin) -> None:
        assert self._inbox is not None
        hints = await self._inbox.take(at_most)
        asked_at = self._clock.monotonic()
        # Once asked for, a claim may be committed: it is waited for even while this is cancelled.
        wanted = partial(
            claim_runs,
            worker_id=self._worker_id,
            run_ids=[run_id for run_id, _ in hints],
            lease=self._lease,
        )
        claim: asyncio.Future[list[ClaimedRun]] = asyncio.ensure_future(
            self._store.transact(wanted)
        )
        try:
            claimed = await asyncio.shield(claim)
        except asyncio.CancelledError:
            begin(await claim, asked_at)
            raise
        except BaseException:
            self._inbox.put_back(hints)
            raise
        await self._inbox.settle(hints)
        begin(claimed, asked_at)

    async def stop_claiming(self, begin: Begin) -> None:
        await self.close()  # what is claimed was begun, before the claim was over

    async def close(self) -> None:
        if self._inbox is not None:
            inbox, self._inbox = self._inbox, None
            await inbox.close()

    async def renew(self, fences: Mapping[int, int]) -> Renewal:
        return await self._store.transact(
            partial(renew_leases, worker_id=self._worker_id, fences=fences, lease=self._lease)
        )

    async def report(
        self, outputs: Sequence[OutputReport], endings: Sequence[AttemptReport]
    ) -> None:
        await self._store.transact(partial(take_reports, outputs=outputs, endings=endings))

    async def drain(self) -> None:
        await self._store.transact(partial(drain_worker, worker_id=self._worker_id))

    async def sign_off(self) -> None:
        await self._store.transact(partial(sign_off_worker, worker_id=self._worker_id))
