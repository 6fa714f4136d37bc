"""Nothing in its flow run keeps a run back any more: it is ready, and its time limits begin."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tidemill.application.map_runs import map_runs
from tidemill.application.note_ready import note_ready
from tidemill.domain.deadline import earlier, queue_deadline, seconds_after
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import Hold, RunChange, TaskRun, Trigger, annotate, move, rank_of
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Begun(msgspec.Struct, frozen=True):
    """What became of runs beyond being ready."""

    items: list[TaskRun]  # further parts of those that were mapped
    ended: list[TaskRun]  # as they are then: there was nothing to be mapped over


def begin_runs(
    transaction: Transaction,
    flow_runs: Mapping[str, FlowRun],
    runs: Sequence[TaskRun],
    busy: Collection[int],
) -> Begun:
    """Let these runs begin, which wait for upstream runs no more, or for the turn of their flow
    run: each as it is, or as one for each item of the list that it is mapped over.

    While the turn has still to come, they wait for it. `busy` are the tasks that have an earlier
    run: in a flow run nobody is skipped for overlap, but waits until that one has ended. Nobody
    waits for a run that waits for its own flow run: that one called it before an edit closed the
    circle.
    """
    if not runs:
        return Begun([], [])
    concerned = [flow_runs[run.flow_run_id or ""] for run in runs if run.task_id in busy]
    called = {each.id for each in concerned if each.called_by is not None}
    waiting = transaction.tasks_calling(called) if called else set()
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in runs})
    beginnings = [
        _beginning(
            run,
            definitions[run.task_id, run.task_version],
            flow_runs[run.flow_run_id or ""],
            transaction.now,
            is_kept_back=run.task_id in busy and (run.flow_run_id, run.task_id) not in waiting,
        )
        for run in runs
    ]
    mapped = map_runs(transaction, runs, beginnings, definitions)
    transaction.change_runs(mapped.changes)
    items = transaction.insert_runs(mapped.items)
    note_ready(transaction, mapped.ready)
    transaction.announce(Topic.EVENTS)
    return Begun(items, mapped.ended)


def _beginning(
    run: TaskRun,
    definition: TaskDefinition,
    flow_run: FlowRun,
    now: datetime,
    *,
    is_kept_back: bool,
) -> RunChange:
    ready_at = max(run.not_before, now)
    changes: dict[str, Any]
    if flow_run.status is FlowStatus.WAITING:
        changes = {"hold": Hold.TURN}
    else:
        changes = {
            "hold": Hold.TIME if run.not_before > now else None,
            "not_before": ready_at,
            "rank": rank_of(ready_at, run.priority),
            "queue_deadline_at": queue_deadline(run, ready_at),
            "deadline_at": earlier(
                seconds_after(ready_at, definition.deadline_seconds), flow_run.deadline_at
            ),
        }
        if is_kept_back and _heeds_others(run, definition):
            changes["hold"] = Hold.CATCH_UP
    held_for = run.hold or run.status
    told = {"held_for": held_for.value}
    if run.status is RunStatus.PENDING:
        return annotate(run, now, EventType.RUN_RELEASED, told, **changes)
    return move(run, RunStatus.PENDING, now, EventType.RUN_RELEASED, told, **changes)


def _heeds_others(run: TaskRun, definition: TaskDefinition) -> bool:
    """Backfills run beside the live runs, but for what comes after upstream runs."""
    is_backfill = run.status is RunStatus.PENDING and run.trigger is Trigger.BACKFILL
    return definition.overlap != "allow" and not is_backfill
