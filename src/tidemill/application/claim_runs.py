"""A worker takes runs: one guarded change gives it the lease and a fence of its own."""

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from tidemill.application.time_out_runs import time_out_runs
from tidemill.domain.deadline import overdue_reason
from tidemill.domain.events import EventType
from tidemill.domain.gates import GateFinding, concurrency_gate
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import Hold, RunAttempt, RunChange, TaskRun, move
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class ClaimedRun(msgspec.Struct, frozen=True):
    """A run as the worker that now holds it needs it."""

    run: TaskRun  # after the claim: attempt, fence and lease are the claimant's
    definition: TaskDefinition
    previous_success_at: datetime | None


def claim_runs(
    transaction: Transaction, worker_id: str, run_ids: Collection[int], lease: timedelta
) -> list[ClaimedRun]:
    """Take those of the named runs that are still to be had; the others moved on meanwhile.

    The limits are checked again here, where they bind: what was dispatched is only a hint. A run
    that waited too long is ended in place of being taken.
    """
    worker = transaction.worker(worker_id)
    if worker is None or worker.status is not WorkerStatus.ACTIVE:
        return []
    found = transaction.runs(run_ids)
    named = [found[run_id] for run_id in dict.fromkeys(run_ids) if run_id in found]
    dispatched = [run for run in named if run.status is RunStatus.DISPATCHED]
    now = transaction.now
    if not dispatched:
        return []
    time_out_runs(transaction, [run for run in dispatched if overdue_reason(run, now)])
    wanted = [run for run in dispatched if not overdue_reason(run, now)]
    runners = transaction.key_runners(
        {run.concurrency_key for run in wanted if run.concurrency_key is not None}
    )
    changes, taken = [], []
    for run in wanted:
        key = run.concurrency_key
        finding = concurrency_gate(run, runners.get(key, 0) if key else 0)
        if not finding.passes:
            changes.append(_withdraw(run, now, finding))
            continue
        if key is not None:
            runners[key] = runners.get(key, 0) + 1
        change = _claim(run, worker_id, now, now + lease)
        changes.append(change)
        taken.append(msgspec.structs.replace(run, **change.changes))
    transaction.change_runs(changes)
    transaction.open_attempts([_attempt_of(run) for run in taken])
    transaction.announce(Topic.EVENTS)
    if transaction.has_ready_runs({run.lane for run in dispatched}):
        transaction.announce(Topic.READY)  # they wait for the room that was made
    return _with_context(transaction, taken)


def _claim(run: TaskRun, worker_id: str, now: datetime, until: datetime) -> RunChange:
    attempt, fence = run.attempt + 1, run.fence + 1
    return move(
        run,
        RunStatus.RUNNING,
        now,
        EventType.RUN_STARTED,
        {
            "attempt": attempt,
            "fence": fence,
            "worker_id": worker_id,
            "late_seconds": (now - run.not_before).total_seconds(),
        },
        attempt=attempt,
        fence=fence,
        worker_id=worker_id,
        lease_expires_at=until,
        started_at=now,
        reason=None,
        error_message=None,
        exit_code=None,
    )


def _withdraw(run: TaskRun, now: datetime, finding: GateFinding) -> RunChange:
    return move(
        run,
        RunStatus.PENDING,
        now,
        EventType.DISPATCH_WITHDRAWN,
        {"reason": "limit", "detail": finding.detail},
        hold=Hold.LIMIT,
        dispatched_at=None,
    )


def _attempt_of(run: TaskRun) -> RunAttempt:
    assert run.worker_id is not None
    assert run.started_at is not None
    return RunAttempt(
        run_id=run.id,
        attempt=run.attempt,
        fence=run.fence,
        worker_id=run.worker_id,
        started_at=run.started_at,
    )


def _with_context(transaction: Transaction, taken: list[TaskRun]) -> list[ClaimedRun]:
    taken = _with_log_seq(transaction, taken)
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in taken})
    successes = transaction.previous_successes({run.task_id for run in taken})
    return [
        ClaimedRun(run, definitions[run.task_id, run.task_version], successes.get(run.task_id))
        for run in taken
    ]


def _with_log_seq(transaction: Transaction, taken: list[TaskRun]) -> list[TaskRun]:
    """Output goes on counting where an earlier attempt left off, lost ones included."""
    later = [run.id for run in taken if run.attempt > 1]
    if not later:
        return taken
    stored = transaction.last_log_seqs(later)
    return [
        msgspec.structs.replace(run, log_seq=max(run.log_seq, stored.get(run.id, 0)))
        for run in taken
    ]
