"""A finished run is tried once more, as a new run that is linked to it."""

from collections.abc import Sequence
from uuid import uuid4

import msgspec

from tidemill.application.note_ready import note_made
from tidemill.domain.new_run import new_run
from tidemill.domain.run_status import FINAL
from tidemill.domain.task import Priority, Task, lane_bound_as
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.foundation.store import Transaction


def retry_runs(
    transaction: Transaction, runs: Sequence[TaskRun], traceparent: str | None = None
) -> dict[int, TaskRun]:
    """Run id → its new run, for those that are final and whose task was not deleted.

    The new run has the old one's fire time, parameters and priority, and the version in force. Of
    a run that was split, it is the same part.
    """
    tasks = transaction.tasks({run.task_id for run in runs})
    retried = [run for run in runs if run.status in FINAL and run.task_id in tasks]
    new = transaction.insert_runs(
        [_again(transaction, tasks[run.task_id], run, traceparent) for run in retried]
    )
    note_made(transaction, new)
    return {old.id: run for old, run in zip(retried, new, strict=True)}


def _again(transaction: Transaction, task: Task, run: TaskRun, traceparent: str | None) -> TaskRun:
    again = new_run(
        task,
        Trigger.RETRY,
        f"retry:{run.id}:{uuid4().hex}",
        run.scheduled_for,
        transaction.now,
        not_before=transaction.now,
        parameters=run.parameters,
        priority=next(each for each in Priority if each.level == run.priority),
        timeout_seconds=run.timeout_seconds,
        missed_count=run.missed_count,
        retry_of=run.id,
        traceparent=traceparent,
    )
    return same_part(run, again)


def same_part(run: TaskRun, again: TaskRun) -> TaskRun:
    """The new run `again`; where `run` was split or mapped, as the same part of the work."""
    if run.part_of is None or run.shard_total == 0:  # there was nothing to be mapped over
        return again
    return msgspec.structs.replace(
        again,
        lane=lane_bound_as(run.lane, again.lane),
        part_of=run.part_of,
        shard_index=run.shard_index,
        shard_total=run.shard_total,
    )
