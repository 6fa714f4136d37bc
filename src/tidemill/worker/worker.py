"""A worker: claims runs while it has room, executes them, and keeps its leases alive."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from functools import partial
from uuid import uuid4

import msgspec

from tidemill.application.claim_runs import ClaimedRun, claim_runs
from tidemill.application.manage_workers import drain_worker, register_worker, sign_off_worker
from tidemill.application.renew_leases import Renewal, renew_leases
from tidemill.domain.lease import stop_before
from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import SchedulerError, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.executor import Executor
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.service import Loop
from tidemill.foundation.store import Store
from tidemill.foundation.wakeups import Topic, Wakeups
from tidemill.worker.execution import RunningAttempt
from tidemill.worker.inbox import Inbox
from tidemill.worker.reporter import Reporter
from tidemill.worker.slots import Slots

_log = logging.getLogger("tidemill.worker")


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker offers and how it behaves; durations in seconds."""

    name: str
    hostname: str
    version: str
    queues: Sequence[str] = ("default",)
    labels: dict[str, str] = {}
    max_concurrent_tasks: int = 256
    heartbeat_seconds: float = 2.0
    lease_seconds: float = 10.0
    drain_seconds: float = 30.0
    kill_grace_seconds: float = 5.0

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def kill_grace(self) -> timedelta:
        return timedelta(seconds=self.kill_grace_seconds)


class WorkerService:
    """The loops of one worker and the attempts it holds."""

    def __init__(
        self,
        store: Store,
        queue: MessageQueue,
        wakeups: Wakeups,
        clock: Clock,
        executors: "dict[str, Executor]",
        options: WorkerOptions,
    ) -> None:
        self._store = store
        self._queue = queue
        self._wakeups = wakeups
        self._clock = clock
        self._executors = executors
        self._options = options
        self._slots = Slots(options.max_concurrent_tasks)
        self._reporter = Reporter(store, clock)
        self._attempts: dict[int, RunningAttempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker: Worker | None = None
        self._inbox: Inbox | None = None
        self._claiming: asyncio.Task[None] | None = None
        self.heartbeat: Loop | None = None

    async def start(self) -> None:
        """Register and begin to claim."""
        await self._reporter.start()
        await self._register()
        self.heartbeat = Loop("heartbeat", self._beat, self._wakeups.listen(Topic.LEASES))
        await self.heartbeat.start()
        self._start_claiming()

    async def stop(self) -> None:
        """Drain: claim no more, let what runs end within `drain_seconds`, hand back the rest."""
        if self._worker is None or self.heartbeat is None:
            return
        await self._stop_claiming()
        await _try("drain", self._store.transact(partial(drain_worker, worker_id=self._worker.id)))
        await self._finish_attempts()
        await self._reporter.stop()
        await self.heartbeat.stop()
        await _try(
            "sign off", self._store.transact(partial(sign_off_worker, worker_id=self._worker.id))
        )
        self._worker = None

    async def _register(self) -> None:
        now = self._clock.now()
        options = self._options
        worker = Worker(
            id=f"{options.name}-{uuid4().hex[:12]}",
            name=options.name,
            hostname=options.hostname,
            task_types=sorted(self._executors),
            queues=list(options.queues),
            labels=options.labels,
            max_concurrent_tasks=options.max_concurrent_tasks,
            status=WorkerStatus.REGISTERING,
            last_heartbeat=now,
            registered_at=now,
            version=options.version,
        )
        self._worker = await self._store.transact(partial(register_worker, worker=worker))
        self._inbox = Inbox(await self._queue.subscribe(self._worker))

    def _start_claiming(self) -> None:
        self._claiming = asyncio.create_task(self._claim_for_ever(), name="claim")

    async def _stop_claiming(self) -> None:
        if self._claiming is not None:
            self._claiming.cancel()
            await asyncio.wait([self._claiming])
        if self._inbox is not None:
            await self._inbox.close()

    async def _claim_for_ever(self) -> None:
        while True:
            await self._slots.wait_free()
            try:
                await self._claim()
            except Unavailable as error:
                _log.warning("cannot claim now: %s", error)
                await self._clock.sleep(self._options.heartbeat_seconds / 4)
            except Exception:
                _log.exception("claiming failed; trying again")
                await self._clock.sleep(self._options.heartbeat_seconds / 4)

    async def _claim(self) -> None:
        assert self._inbox is not None
        assert self._worker is not None
        hints = await self._inbox.take(self._slots.free)
        asked_at = self._clock.monotonic()
        # Once asked for, a claim may be committed: it is waited for even while this is cancelled.
        wanted = partial(
            claim_runs,
            worker_id=self._worker.id,
            run_ids=[run_id for run_id, _ in hints],
            lease=self._options.lease,
        )
        claim: asyncio.Future[list[ClaimedRun]] = asyncio.ensure_future(
            self._store.transact(wanted)
        )
        try:
            claimed = await asyncio.shield(claim)
        except asyncio.CancelledError:
            self._begin(await claim, asked_at)
            raise
        except BaseException:
            self._inbox.put_back(hints)
            raise
        await self._inbox.settle(hints)
        self._begin(claimed, asked_at)

    def _begin(self, claimed: Sequence[ClaimedRun], asked_at: float) -> None:
        self._slots.take(len(claimed))
        now, grace = self._clock.now(), self._options.kill_grace
        give_up_at = stop_before(asked_at, self._options.lease)
        for each in claimed:
            attempt = RunningAttempt(each, self._reporter, now, grace)
            attempt.stop_before = give_up_at
            self._attempts[each.run.id] = attempt
            task = asyncio.create_task(self._execute(attempt), name=f"run {each.run.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, attempt: RunningAttempt) -> None:
        try:
            try:
                outcome = await attempt.execute(self._executors.get(attempt.run.task_type))
            finally:
                self._slots.give_back()  # the next run need not wait for this one's record
            await attempt.record(outcome)
        finally:
            if self._attempts.get(attempt.run.id) is attempt:
                del self._attempts[attempt.run.id]

    async def _beat(self) -> float:
        assert self._worker is not None
        held = dict(self._attempts)
        asked_at = self._clock.monotonic()
        try:
            renewal = await self._store.transact(
                partial(
                    renew_leases,
                    worker_id=self._worker.id,
                    fences={run_id: attempt.run.fence for run_id, attempt in held.items()},
                    lease=self._options.lease,
                )
            )
        except Unavailable:
            self._stop_what_may_start_elsewhere()
            raise
        self._heed(renewal, held, asked_at)
        if not renewal.is_known:
            await self._come_back()
        return self._options.heartbeat_seconds

    def _heed(self, renewal: Renewal, held: "dict[int, RunningAttempt]", asked_at: float) -> None:
        give_up_at = stop_before(asked_at, self._options.lease)
        for run_id, attempt in held.items():
            status = renewal.statuses.get(run_id)
            if status is not None:
                attempt.stop_before = give_up_at
            if status is RunStatus.CANCELLING:
                attempt.end("cancel")
            elif status is None and self._attempts.get(run_id) is attempt:
                attempt.abandon()

    def _stop_what_may_start_elsewhere(self) -> None:
        """Without renewal, end each tree before its lease can run out."""
        now = self._clock.monotonic()
        for attempt in self._attempts.values():
            if now >= attempt.stop_before:
                attempt.abandon()

    async def _come_back(self) -> None:
        """Declared lost: a new incarnation registers; what the old one held was taken back."""
        await self._stop_claiming()
        _log.warning("this worker was declared lost; it registers again")
        await self._register()
        self._start_claiming()

    async def _finish_attempts(self) -> None:
        try:
            async with asyncio.timeout(self._options.drain_seconds):
                await self._slots.wait_all_free()
        except TimeoutError:
            for attempt in list(self._attempts.values()):
                attempt.end("drain")
            await self._slots.wait_all_free()


async def _try(what: str, action: Awaitable[object]) -> None:
    try:
        await action
    except SchedulerError as error:
        _log.warning("could not %s: %s", what, error)
