"""Of runs that begin, those that are mapped over a list become one for each of its items."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.application.note_ready import Freed, freed
from tidemill.domain.events import EventType
from tidemill.domain.mapping import NoItems, columns_of_items, items_of
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import MapOver, TaskDefinition
from tidemill.domain.task_run import Hold, RunChange, TaskRun, cancelled, move
from tidemill.foundation.store import Transaction


class Mapped(msgspec.Struct, frozen=True):
    """What becomes of runs that begin, of which nothing is written yet."""

    changes: list[RunChange]
    items: list[TaskRun]  # further parts of those that are mapped
    ended: list[TaskRun]  # as they are then: there is nothing to be mapped over
    ready: list[Freed]  # those that begin


def map_runs(
    transaction: Transaction,
    runs: Sequence[TaskRun],
    beginnings: Sequence[RunChange],
    definitions: Mapping[tuple[int, int], TaskDefinition],
) -> Mapped:
    """What becomes of these runs, which are locked, and begin by these changes.

    The first item of a mapped run is the run itself, as with a run that is split.
    """
    said = {
        run.id: map_over
        for run, change in zip(runs, beginnings, strict=True)
        if (map_over := _map_of(run, change, definitions)) is not None
    }
    sources = transaction.map_sources(said) if said else {}
    mapped = Mapped([], [], [], [])
    for run, beginning in zip(runs, beginnings, strict=True):
        if run.id not in said:
            mapped.changes.append(beginning)
            mapped.ready.append(
                Freed(run.lane, beginning.changes["hold"], run.concurrency_key is not None)
            )
            continue
        found = items_of(said[run.id], sources.get(run.id))
        if isinstance(found, NoItems):
            mapped.changes.append(_end(run, found, transaction.now))
            mapped.ended.append(msgspec.structs.replace(run, status=found.status))
            continue
        begun = msgspec.structs.replace(run, **beginning.changes)
        first, *others = columns_of_items(said[run.id], begun, found)
        mapped.changes.append(msgspec.structs.replace(beginning, changes=beginning.changes | first))
        items = [
            msgspec.structs.replace(
                begun,
                id=0,
                trigger_key=f"part:{run.id}:{index}",
                created_at=transaction.now,
                **columns,
            )
            for index, columns in enumerate(others, 1)
        ]
        mapped.items.extend(items)
        mapped.ready.extend(map(freed, [msgspec.structs.replace(begun, **first), *items]))
    return mapped


def _map_of(
    run: TaskRun, beginning: RunChange, definitions: Mapping[tuple[int, int], TaskDefinition]
) -> MapOver | None:
    """What a run is mapped over: not an item that is tried again, nor what waits for its turn."""
    if run.part_of is not None or beginning.changes["hold"] is Hold.TURN:
        return None
    return definitions[run.task_id, run.task_version].map_over


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
        hold=None,
        completed_at=now,
        part_of=run.id if is_empty else None,
        shard_total=0 if is_empty else None,
    )
