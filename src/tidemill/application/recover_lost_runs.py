"""Owners vanish, messages get lost, deadlines pass: a sweep over the database puts it right."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tidemill.application.follow_up import (
    follow_up_attempts,
    follow_up_calls,
    let_next_of_task_go,
    let_waiting_for_keys_go,
)
from tidemill.application.release_dependents import advance_backfills, count_outside_edges
from tidemill.application.time_out_runs import time_out_flow_runs, time_out_runs
from tidemill.domain.deadline import overdue_reason, queue_deadline
from tidemill.domain.events import EventType
from tidemill.domain.gates import serving_workers
from tidemill.domain.lease import is_poison
from tidemill.domain.retry import may_go_on
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import lane_to_wait_in, parse_lane
from tidemill.domain.task_run import (
    AttemptOutcome,
    Hold,
    RunChange,
    TaskRun,
    ended_attempt,
    move,
)
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_EVERYTHING = 1_000_000
_OVERLOOKED_AFTER = timedelta(seconds=3)
_LONGEST_LEASE = timedelta(minutes=10)  # what ends later is of a clock that was ahead
_LOST = "the worker that ran it stopped answering"


class Recovered(msgspec.Struct, frozen=True):
    """What a sweep found."""

    lost: int = 0
    overdue: int = 0
    redispatched: int = 0
    workers_lost: int = 0

    @property
    def found_anything(self) -> bool:
        return bool(self.lost or self.overdue or self.redispatched or self.workers_lost)


def recover_lost_runs(
    transaction: Transaction,
    limit: int,
    *,
    claim_within: timedelta,
    silent_after: timedelta,
    expected: datetime | None = None,
) -> Recovered:
    """One sweep. `claim_within` is how long a dispatched run may stay unclaimed.

    `expected` is what the clock should show: what it did at the sweep before, and what was
    measured since.
    """
    now = transaction.now
    _heed_a_clock_that_was_set(transaction, expected or now, silent_after)
    overdue_in_flow = time_out_flow_runs(transaction, limit)
    overdue = transaction.overdue_runs(limit)
    time_out_runs(transaction, overdue)
    expired = transaction.expired_leases(limit)
    lose_runs(transaction, expired)
    silent = transaction.silent_workers(now - silent_after)
    for worker in silent:
        transaction.save_worker(msgspec.structs.replace(worker, status=WorkerStatus.LOST))
    count_outside_edges(transaction)
    # What ended by an edge from outside, or in a process that knows no calls, told nobody.
    follow_up_calls(transaction, transaction.overlooked_calls(limit))
    stranded = recover_stranded_runs(transaction)
    stuck = transaction.stuck_dispatches(now - claim_within, limit)
    stuck += _overlooked(transaction, {run.id for run in stuck})
    _dispatch_again(transaction, stuck, reason="unclaimed")
    # Whoever made room may not have seen yet those who were just told to wait for it.
    let_waiting_for_keys_go(transaction, transaction.held_keys())
    let_next_of_task_go(transaction, None)
    # Where a process that knows no turns ended a flow run, nobody else lets the next one begin.
    advance_backfills(transaction, transaction.waiting_backfills())
    recovered = Recovered(
        len(expired), overdue_in_flow + len(overdue), len(stuck) + stranded, len(silent)
    )
    if recovered.found_anything:
        transaction.announce(Topic.READY, Topic.EVENTS)
    return recovered


def _heed_a_clock_that_was_set(
    transaction: Transaction, expected: datetime, silent_after: timedelta
) -> None:
    """Silence and leases begin anew.

    Ahead, all would be given up who have had no time to speak. Back, nobody would be missed and
    nothing taken back before the clock is again where it was.
    """
    now = transaction.now
    if now - expected > silent_after / 2:
        transaction.date_heartbeats(expected - silent_after)
        transaction.date_leases(expected, now + silent_after)
    transaction.date_heartbeats(now + silent_after)
    transaction.date_leases(now + max(_LONGEST_LEASE, silent_after), now + silent_after)


def _overlooked(transaction: Transaction, known: Collection[int]) -> list[TaskRun]:
    """What was dispatched some seconds ago to workers that have room: its message is lost.

    No more than they have room for, oldest first.
    """
    before = transaction.now - _OVERLOOKED_AFTER
    found: list[TaskRun] = []
    lanes = transaction.lanes_dispatched_before(before)
    if not lanes:
        return found
    workers = transaction.workers_alive()
    running = transaction.running_counts()
    for lane in lanes:
        serving = serving_workers(lane, workers)
        room = sum(max(w.max_concurrent_tasks - running.get(w.id, 0), 0) for w in serving)
        if room:
            oldest = transaction.dispatched_before(lane, before, room)
            found += [run for run in oldest if run.id not in known]
    return found


def recover_from_dead_workers(transaction: Transaction, worker_ids: Sequence[str]) -> int:
    """Take back at once what workers held that are known to be dead, their task trees included."""
    for worker_id in worker_ids:
        worker = transaction.worker(worker_id)
        if worker is not None:
            transaction.save_worker(msgspec.structs.replace(worker, status=WorkerStatus.LOST))
    runs = transaction.runs_held_by(worker_ids)
    lose_runs(transaction, runs)
    return len(runs)


def recover_stranded_runs(transaction: Transaction) -> int:
    """Withdraw what was dispatched to one worker that takes no more; how many runs that were.

    Those that wait for it without being dispatched are found where they would be.
    """
    named = [lane for lane in transaction.dispatched_lanes() if parse_lane(lane).worker_id]
    if not named:
        return 0
    workers = transaction.workers_alive()
    stranded = [lane for lane in named if not serving_workers(lane, workers)]
    runs = transaction.dispatched_runs(stranded) if stranded else []
    _dispatch_again(transaction, runs, reason="worker_gone")
    return len(runs)


def recover_unpublished_runs(transaction: Transaction, run_ids: Sequence[int]) -> None:
    """Withdraw what was dispatched in vain: the queue did not say that it has the messages.

    Whoever got one all the same and was faster has the run.
    """
    runs = transaction.runs(run_ids).values()
    unclaimed = [run for run in runs if run.status is RunStatus.DISPATCHED]
    _dispatch_again(transaction, unclaimed, reason="unpublished")
    transaction.announce(Topic.READY, Topic.EVENTS)


def recover_after_restart(transaction: Transaction) -> int:
    """Take back what workers of the process held, where no other works on this database.

    They died with it. Those that go through the API may be well: they are lost when they are
    silent, as always.
    """
    own = [worker.id for worker in transaction.workers_alive() if worker.works_on_database]
    taken = recover_from_dead_workers(transaction, own)
    stuck = transaction.stuck_dispatches(transaction.now, _EVERYTHING)
    _dispatch_again(transaction, stuck, reason="unclaimed")
    transaction.announce(Topic.READY)
    return taken + len(stuck)


def lose_runs(transaction: Transaction, runs: Sequence[TaskRun]) -> None:
    """Close the attempts of these leased runs as lost and plan what follows."""
    if not runs:
        return
    changes = [_loss_of(run, transaction.now) for run in runs]
    transaction.change_runs(changes)
    transaction.close_attempts(
        [
            ended_attempt(run, AttemptOutcome.LOST, transaction.now, error_message=_LOST)
            for run in runs
        ]
    )
    follow_up_attempts(transaction, changes)
    transaction.announce(Topic.READY, Topic.EVENTS)


def _loss_of(run: TaskRun, now: datetime) -> RunChange:
    losses = run.losses + 1
    told = _told_of_loss(run)
    if run.status is RunStatus.CANCELLING:
        return move(
            run, RunStatus.CANCELLED, now, EventType.RUN_CANCELLED, told,
            losses=losses, lease_expires_at=None, completed_at=now,
        )  # fmt: skip
    if is_poison(run):
        said = f"lost {losses} workers while running"
        return _lost_for_good(run, RunStatus.FAILED, "poison", said, now)
    if not may_go_on(run):
        return _lost_for_good(run, RunStatus.FAILED, "worker_lost", _LOST, now)
    if overdue_reason(run, now) is not None:
        return _lost_for_good(run, RunStatus.TIMED_OUT, "deadline", _LOST, now)
    return move(
        run,
        RunStatus.RETRYING,
        now,
        EventType.RUN_LOST,
        told | {"reason": "worker_lost"},
        losses=losses,
        lease_expires_at=None,
        reason="worker_lost",
        error_message=_LOST,
        hold=Hold.TIME,
        not_before=now,
        dispatched_at=None,
        started_at=None,
        queue_deadline_at=queue_deadline(run, now),
    )


def _lost_for_good(
    run: TaskRun, status: RunStatus, reason: str, said: str, now: datetime
) -> RunChange:
    return move(
        run,
        status,
        now,
        EventType.RUN_LOST,
        _told_of_loss(run) | {"reason": reason},
        losses=run.losses + 1,
        lease_expires_at=None,
        completed_at=now,
        reason=reason,
        error_message=said,
    )


def _told_of_loss(run: TaskRun) -> dict[str, Any]:
    return {"attempt": run.attempt, "fence": run.fence, "worker_id": run.worker_id}


def _dispatch_again(transaction: Transaction, runs: Sequence[TaskRun], *, reason: str) -> None:
    transaction.change_runs(
        [
            move(
                run,
                RunStatus.PENDING,
                transaction.now,
                EventType.DISPATCH_WITHDRAWN,
                {"reason": reason},
                dispatched_at=None,
                lane=lane_to_wait_in(run.lane),
            )
            for run in runs
        ]
    )
