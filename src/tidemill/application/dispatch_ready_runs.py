"""Ready runs are handed to the queue, the most urgent first, as many as workers have use for."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from tidemill.domain.events import EventType
from tidemill.domain.gates import GateFinding, concurrency_gate, queue_room
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Hold, RunChange, TaskRun, annotate, move, rank_of
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Dispatched(msgspec.Struct, frozen=True):
    """What to publish, and when there is more to do."""

    messages: list[RunMessage]
    has_more: bool
    next_ready_at: datetime | None


def dispatch_ready_runs(transaction: Transaction, limit: int) -> Dispatched:
    """Mark up to `limit` ready runs as dispatched; the caller publishes once that is committed."""
    promoted = _end_time_holds(transaction, limit)
    messages = []
    has_more = promoted == limit
    workers = transaction.workers_alive()
    for lane, dispatched in transaction.ready_lanes().items():
        room = min(queue_room(lane, workers, dispatched), limit)
        if room > 0:
            run_ids, held = _dispatch_lane(transaction, lane, room)
            # Whom a full key kept back has left room to those behind.
            has_more = has_more or held > 0 or len(run_ids) == limit
            if run_ids:
                messages.append(RunMessage(lane, tuple(run_ids)))
    if messages or promoted or has_more:
        transaction.announce(Topic.EVENTS)
    return Dispatched(messages, has_more, transaction.next_hold_ends_at())


def _end_time_holds(transaction: Transaction, limit: int) -> int:
    due = transaction.due_holds(limit)
    transaction.change_runs([_time_has_come(run, transaction.now) for run in due])
    return len(due)


def _time_has_come(run: TaskRun, now: datetime) -> RunChange:
    changes = {"hold": None, "rank": rank_of(run.not_before, run.priority)}
    if run.status is RunStatus.RETRYING:
        return move(run, RunStatus.PENDING, now, EventType.RUN_RELEASED, None, **changes)
    return annotate(run, now, EventType.RUN_RELEASED, {"held_for": Hold.TIME.value}, **changes)


def _dispatch_lane(transaction: Transaction, lane: str, limit: int) -> tuple[list[int], int]:
    """The runs of a lane that go, and how many their concurrency keys keep back."""
    candidates = transaction.ready_runs(lane, limit)
    holders = transaction.key_holders(
        {run.concurrency_key for run in candidates if run.concurrency_key is not None}
    )
    goes, kept = [], {}
    for run in candidates:
        key = run.concurrency_key
        finding = concurrency_gate(run, holders.get(key, 0) if key else 0)
        if not finding.passes:
            kept[run.id] = finding
            continue
        if key is not None:
            holders[key] = holders.get(key, 0) + 1
        goes.append(run.id)
    transaction.dispatch(goes)
    _hold(transaction, kept)
    return goes, len(kept)


def _hold(transaction: Transaction, kept: Mapping[int, GateFinding]) -> None:
    heads = transaction.run_heads(kept) if kept else {}
    transaction.change_runs(
        [
            annotate(
                run,
                transaction.now,
                EventType.RUN_HELD,
                {"gate": kept[run.id].gate, "detail": kept[run.id].detail},
                hold=Hold.LIMIT,
            )
            for run in heads.values()
        ]
    )
