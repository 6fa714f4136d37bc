"""A task stops firing by itself, and starts again; what was missed in between is accounted for."""

import msgspec

from tidemill.application.follow_up import rearm_tasks
from tidemill.application.settle_task import settle_task
from tidemill.domain.task import Task, TaskStatus
from tidemill.errors import NotFound
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def pause_task(transaction: Transaction, task_id: int) -> Task:
    """From the answer on nothing fires until the task is resumed. Pausing twice changes nothing."""
    before = _locked(transaction, task_id)
    if before.status is TaskStatus.PAUSED:
        return before
    before = settle_task(transaction, before)
    after = msgspec.structs.replace(
        before,
        status=TaskStatus.PAUSED,
        paused_at=transaction.now,
        updated_at=transaction.now,
    )
    transaction.replace_task(before, after)
    transaction.announce(Topic.SCHEDULES)
    return after


def resume_task(transaction: Transaction, task_id: int) -> Task:
    """Fire again from now on; the fire times of the pause become skipped rows, reason `paused`."""
    before = _locked(transaction, task_id)
    if before.status is TaskStatus.ACTIVE:
        return before
    before = settle_task(transaction, before)
    now = transaction.now
    schedule = before.schedule
    is_fixed_delay = schedule is not None and schedule.kind == "after"
    after = msgspec.structs.replace(
        before,
        status=TaskStatus.ACTIVE,
        paused_at=None,
        next_run_at=schedule.next_after(now) if schedule and not is_fixed_delay else None,
        updated_at=now,
    )
    transaction.replace_task(before, after)
    if is_fixed_delay:
        rearm_tasks(transaction, [task_id])
    transaction.announce(Topic.SCHEDULES, Topic.EVENTS)
    return transaction.tasks([task_id])[task_id]


def _locked(transaction: Transaction, task_id: int) -> Task:
    task = transaction.tasks([task_id]).get(task_id)
    if task is None:
        raise NotFound("task", task_id)
    return task
