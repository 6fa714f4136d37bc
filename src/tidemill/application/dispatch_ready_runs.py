"""Ready runs are handed to the queue, the most urgent first, as many as workers have use for."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.domain.events import EventType
from tidemill.domain.gates import concurrency_gate, serving_workers
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Hold, RunChange, TaskRun, annotate, move, rank_of
from tidemill.domain.worker import Worker
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

# How many runs may wait in the queue for each slot of the workers that serve them: enough that
# no slot waits for the dispatcher, few enough that an urgent run overtakes nearly all.
PREFETCH = 2


class Dispatched(msgspec.Struct, frozen=True):
    """What to publish, and when there is more to do."""

    messages: list[RunMessage]
    has_more: bool
    next_ready_at: datetime | None


def dispatch_ready_runs(transaction: Transaction, limit: int) -> Dispatched:
    """Mark up to `limit` ready runs as dispatched; the caller publishes once that is committed."""
    promoted = _end_time_holds(transaction, limit)
    messages = []
    workers = transaction.workers_alive()
    for lane, waiting in transaction.ready_lanes().items():
        room = _room(lane, workers)
        # Refilled when half of it is gone: many runs in one message instead of one in each.
        if room and waiting <= room // 2:
            runs = _dispatch_lane(transaction, lane, min(room - waiting, limit))
            if runs:
                messages.append(RunMessage(lane, tuple(run.id for run in runs)))
    if messages or promoted:
        transaction.announce(Topic.EVENTS)
    return Dispatched(
        messages=messages,
        has_more=promoted == limit or any(len(m.run_ids) == limit for m in messages),
        next_ready_at=transaction.next_hold_ends_at(),
    )


def _end_time_holds(transaction: Transaction, limit: int) -> int:
    due = transaction.due_holds(limit)
    transaction.change_runs([_time_has_come(run, transaction.now) for run in due])
    return len(due)


def _time_has_come(run: TaskRun, now: datetime) -> RunChange:
    changes = {"hold": None, "rank": rank_of(run.not_before, run.priority)}
    if run.status is RunStatus.RETRYING:
        return move(run, RunStatus.PENDING, now, EventType.RUN_RELEASED, None, **changes)
    return annotate(run, now, EventType.RUN_RELEASED, {"held_for": Hold.TIME.value}, **changes)


def _room(lane: str, workers: Sequence[Worker]) -> int:
    serving = serving_workers(lane, workers)
    return sum(worker.max_concurrent_tasks for worker in serving) * PREFETCH


def _dispatch_lane(transaction: Transaction, lane: str, limit: int) -> list[TaskRun]:
    candidates = transaction.ready_runs(lane, limit)
    holders = transaction.key_holders(
        {run.concurrency_key for run in candidates if run.concurrency_key is not None}
    )
    now = transaction.now
    changes, dispatched = [], []
    for run in candidates:
        key = run.concurrency_key
        finding = concurrency_gate(run, holders.get(key, 0) if key else 0)
        if not finding.passes:
            told = {"gate": finding.gate, "detail": finding.detail}
            changes.append(annotate(run, now, EventType.RUN_HELD, told, hold=Hold.LIMIT))
            continue
        if key is not None:
            holders[key] = holders.get(key, 0) + 1
        changes.append(
            move(run, RunStatus.DISPATCHED, now, EventType.RUN_DISPATCHED, dispatched_at=now)
        )
        dispatched.append(run)
    transaction.change_runs(changes)
    return dispatched
