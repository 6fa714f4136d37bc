"""A worker: claims runs while it has room, executes them, and keeps its leases alive."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import msgspec

from tidemill.domain.lease import stop_before
from tidemill.domain.outcome import Outcome
from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import SchedulerError, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import (
    AttemptReport,
    Begin,
    ClaimedRun,
    ControlPlane,
    GoOn,
    Renewal,
)
from tidemill.foundation.executor import Executor
from tidemill.foundation.service import Loop
from tidemill.foundation.slots import Slots
from tidemill.foundation.wakeups import Topic, Wakeups
from tidemill.worker.artifacts import ArtifactTransfer, WithArtifacts
from tidemill.worker.deadlines import Deadlines
from tidemill.worker.execution import RunningAttempt
from tidemill.worker.reporter import Reporter

_log = logging.getLogger("tidemill.worker")

Claim = Callable[[Slots, Begin], Awaitable[None]]


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
    max_artifact_bytes: int = 64 * 1024 * 1024
    max_upstream_bytes: int = 256 * 1024 * 1024

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def kill_grace(self) -> timedelta:
        return timedelta(seconds=self.kill_grace_seconds)


class WorkerService:
    """The loops of one worker and the attempts it holds.

    What runs are to read as files is below `files`, a directory that is emptied by whoever made it.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        wakeups: Wakeups,
        clock: Clock,
        executors: "dict[str, Executor]",
        options: WorkerOptions,
        files: Path,
    ) -> None:
        self._control_plane = control_plane
        self._wakeups = wakeups
        self._clock = clock
        artifacts = ArtifactTransfer(
            control_plane,
            clock,
            files,
            largest=options.max_artifact_bytes,
            most_upstream=options.max_upstream_bytes,
        )
        self._executors = {
            name: WithArtifacts(executor, artifacts) for name, executor in executors.items()
        }
        self._options = options
        self._kill_grace = options.kill_grace
        self._slots = Slots(options.max_concurrent_tasks)
        self._reporter = Reporter(control_plane, clock, self._go_on, self._forget)
        self._attempts: dict[int, RunningAttempt] = {}
        self._is_registered = False
        self._is_stopping = False
        self._claiming: list[asyncio.Task[None]] = []
        self._deadlines = Deadlines()
        self._watch: asyncio.TimerHandle | None = None
        self.heartbeat: Loop | None = None

    async def start(self) -> None:
        """Register and begin to claim."""
        await self._register()
        await self._reporter.start()
        self.heartbeat = Loop(
            "heartbeat",
            self._beat,
            self._wakeups.listen(Topic.LEASES),
            longest_pause_seconds=self._options.heartbeat_seconds / 2,  # a lease ends meanwhile
        )
        await self.heartbeat.start()
        self._start_claiming()

    async def stop(self) -> None:
        """Drain: claim no more, let what runs end within `drain_seconds`, hand back the rest."""
        if not self._is_registered or self.heartbeat is None:
            return
        self._is_stopping = True
        await self._stop_claiming()
        await _try("drain", self._control_plane.drain())
        await self._finish_attempts()
        await self._reporter.stop(within_seconds=self._options.lease_seconds)
        await self.heartbeat.stop()
        await _try("sign off", self._control_plane.sign_off())
        await self._control_plane.close()
        self._watch_no_more()
        self._is_registered = False

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
        await self._control_plane.register(worker)
        self._is_registered = True

    def _start_claiming(self) -> None:
        self._claiming = [self._claim_for_ever(self._control_plane.claim)]
        if self._control_plane.reaches_line:
            self._claiming.append(self._claim_for_ever(self._control_plane.claim_next))

    async def _stop_claiming(self) -> None:
        for claiming in self._claiming:
            claiming.cancel()
        if self._claiming:
            await asyncio.wait(self._claiming)
        self._claiming = []
        await _try("settle claims", self._control_plane.stop_claiming(self._begin))

    def _claim_for_ever(self, claim: Claim) -> "asyncio.Task[None]":
        return asyncio.create_task(self._again_and_again(claim), name="claim")

    async def _again_and_again(self, claim: Claim) -> None:
        first = pause = self._options.heartbeat_seconds / 4
        while True:
            try:
                await claim(self._slots, self._begin)
            except Unavailable as error:
                _log.warning("cannot claim now: %s", error)
            except Exception:
                _log.exception("claiming failed; trying again")
            else:
                pause = first
                continue
            await self._clock.sleep(pause)
            pause = min(pause * 2, self._options.heartbeat_seconds)

    def _go_on(self) -> GoOn | None:
        return GoOn(self._slots, self._begin) if self._claiming else None

    def _begin(self, claimed: Sequence[ClaimedRun], asked_at: float) -> None:
        give_up_at = stop_before(asked_at, self._options.lease)
        for each in claimed:
            executor = self._executors.get(each.run.task_type)
            placed = each if executor is None else executor.placed(each)
            attempt = RunningAttempt(placed, self._reporter, self._kill_grace)
            attempt.stop_before = give_up_at
            self._attempts[each.run.id] = attempt
            self._deadlines.watch(attempt)
            attempt.begin(executor, partial(self._end, attempt))
        if self._watch is None and claimed:
            self._watch_from_now(give_up_at)

    def _end(self, attempt: RunningAttempt, outcome: Outcome) -> None:
        self._deadlines.forget_one()
        self._slots.give_back()  # the next run need not wait for this one's record
        if not attempt.is_abandoned:
            attempt.record(outcome)
        elif self._attempts.get(attempt.run.id) is attempt:
            del self._attempts[attempt.run.id]

    def _forget(self, recorded: Sequence[AttemptReport]) -> None:
        for report in recorded:
            attempt = self._attempts.get(report.run_id)
            if attempt is not None and attempt.run.fence == report.fence:
                del self._attempts[report.run_id]

    async def _beat(self) -> float:
        held = dict(self._attempts)
        asked_at = self._clock.monotonic()
        renewal = await self._control_plane.renew(
            {run_id: attempt.run.fence for run_id, attempt in held.items()}
        )
        self._heed(renewal, held, asked_at)
        if not renewal.is_known and not self._is_stopping:
            await self._come_back()
        elif not renewal.may_claim and self._claiming:
            _log.warning("this worker was drained; it claims no more")
            await self._stop_claiming()
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

    def _watch_from_now(self, until: float) -> None:
        """Look again at `until`, by the monotonic clock, whatever renewals are doing then."""
        seconds = max(until - self._clock.monotonic(), 0)
        self._watch = asyncio.get_running_loop().call_later(seconds, self._stop_unrenewed)

    def _stop_unrenewed(self) -> None:
        """End each tree that was not renewed, before it may start elsewhere."""
        now = self._clock.monotonic()
        held = [each for each in self._attempts.values() if not each.is_abandoned]
        for attempt in held:
            if now >= attempt.stop_before:
                _log.warning("run %d is ended: its lease could not be renewed", attempt.run.id)
                attempt.abandon()
        renewed = [each.stop_before for each in held if not each.is_abandoned]
        self._watch = None
        if renewed:
            self._watch_from_now(min(renewed))

    async def _come_back(self) -> None:
        """Declared lost: a new incarnation registers; what the old one held was taken back."""
        await self._stop_claiming()
        _log.warning("this worker was declared lost; it registers again")
        await self._register()
        if not self._is_stopping:
            self._start_claiming()

    async def _finish_attempts(self) -> None:
        try:
            async with asyncio.timeout(self._options.drain_seconds):
                await self._slots.wait_all_free()
        except TimeoutError:
            for attempt in list(self._attempts.values()):
                attempt.end("drain")
            await self._slots.wait_all_free()

    def _watch_no_more(self) -> None:
        """What nobody took a report of is not waited for."""
        self._deadlines.close()
        if self._watch is not None:
            self._watch.cancel()


async def _try(what: str, action: Awaitable[object]) -> None:
    try:
        await action
    except SchedulerError as error:
        _log.warning("could not %s: %s", what, error)
