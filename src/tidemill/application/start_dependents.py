"""Runs whose upstream runs came to what they wait for are made ready: each as it is, or one for
each item of the list that it is mapped over."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from tidemill.domain.deadline import queue_deadline
from tidemill.domain.events import EventType
from tidemill.domain.mapping import NoItems, columns_of_items, items_of
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import Hold, RunChange, TaskRun, cancelled, move, rank_of
from tidemill.foundation.store import Transaction


class Started(msgspec.Struct, frozen=True):
    """What became of waiting runs beyond being ready."""

    items: list[TaskRun]  # further parts of those that were mapped
    ended: list[TaskRun]  # as they are then: there was nothing to be mapped over


def start_dependents(transaction: Transaction, runs: Sequence[TaskRun]) -> Started:
    """Make these waiting runs, which are locked, ready.

    The first item of a mapped run is the run itself, as with a run that is split.
    """
    if not runs:
        return Started([], [])
    now = transaction.now
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in runs})
    busy = _busy_tasks(transaction, runs, definitions)
    mapped = [run.id for run in runs if definitions[run.task_id, run.task_version].map_over]
    sources = transaction.map_sources(mapped) if mapped else {}
    changes: list[RunChange] = []
    started = Started([], [])
    for run in runs:
        definition = definitions[run.task_id, run.task_version]
        start = _start(run, definition, now, busy)
        said = definition.map_over
        if said is None:
            changes.append(start)
            continue
        found = items_of(said, sources.get(run.id))
        if isinstance(found, NoItems):
            changes.append(_end(run, found, now))
            started.ended.append(msgspec.structs.replace(run, status=found.status))
            continue
        ready = msgspec.structs.replace(run, **start.changes)
        first, *others = columns_of_items(said, ready, found)
        changes.append(msgspec.structs.replace(start, changes=start.changes | first))
        started.items.extend(
            msgspec.structs.replace(
                ready, id=0, trigger_key=f"part:{run.id}:{index}", created_at=now, **columns
            )
            for index, columns in enumerate(others, 1)
        )
    transaction.change_runs(changes)
    return msgspec.structs.replace(started, items=transaction.insert_runs(started.items))


def _busy_tasks(
    transaction: Transaction,
    runs: Sequence[TaskRun],
    definitions: Mapping[tuple[int, int], TaskDefinition],
) -> set[int]:
    """Tasks of which an earlier run is in the way."""
    bound = [
        run.task_id for run in runs if definitions[run.task_id, run.task_version].overlap != "allow"
    ]
    return {run.task_id for run in transaction.unfinished_runs(bound)} if bound else set()


def _start(
    run: TaskRun, definition: TaskDefinition, now: datetime, busy: Collection[int]
) -> RunChange:
    """In a flow run nobody is skipped for overlap: it waits until the earlier run has ended."""
    ready_at = max(run.not_before, now)
    hold = Hold.TIME if run.not_before > now else None
    if run.task_id in busy and definition.overlap != "allow":
        hold = Hold.CATCH_UP
    return move(
        run,
        RunStatus.PENDING,
        now,
        EventType.RUN_RELEASED,
        {"held_for": RunStatus.WAITING.value},
        hold=hold,
        not_before=ready_at,
        rank=rank_of(ready_at, run.priority),
        queue_deadline_at=queue_deadline(run, ready_at),
        deadline_at=_after(ready_at, definition.deadline_seconds),
    )


def _end(run: TaskRun, found: NoItems, now: datetime) -> RunChange:
    if found.status is RunStatus.CANCELLED:
        return cancelled(run, now, found.reason, error_message=found.message)
    # No part of a whole: whoever reads its result gets a list of none.
    is_empty = found.reason == "empty"
    return move(
        run,
        RunStatus.SKIPPED,
        now,
        EventType.RUN_SKIPPED,
        {"reason": found.reason},
        reason=found.reason,
        completed_at=now,
        part_of=run.id if is_empty else None,
        shard_total=0 if is_empty else None,
    )


def _after(instant: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else instant + timedelta(seconds=seconds)
