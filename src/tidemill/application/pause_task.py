"""Tasks stop firing by themselves, and start again; what was missed meanwhile is accounted for."""

from collections.abc import Collection

import msgspec

from tidemill.application.follow_up import rearm_tasks
from tidemill.application.settle_tasks import settle_tasks
from tidemill.domain.task import Task, TaskStatus
from tidemill.errors import NotFound
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def pause_task(transaction: Transaction, task_id: int) -> Task:
    """As `pause_tasks`, of one; raises NotFound."""
    return _found(pause_tasks(transaction, [task_id]), task_id)


def resume_task(transaction: Transaction, task_id: int) -> Task:
    """As `resume_tasks`, of one; raises NotFound."""
    return _found(resume_tasks(transaction, [task_id]), task_id)


def pause_tasks(transaction: Transaction, task_ids: Collection[int]) -> dict[int, Task]:
    """From the answer on nothing fires until the tasks are resumed; the tasks as they are then.

    Pausing twice changes nothing. Deleted tasks are left out.
    """
    tasks = transaction.tasks(task_ids)
    active = [task for task in tasks.values() if task.status is TaskStatus.ACTIVE]
    changes = [
        (settled, _paused(settled, transaction))
        for settled in settle_tasks(transaction, active).values()
    ]
    if changes:
        transaction.replace_tasks(changes)
        transaction.announce(Topic.SCHEDULES)
    return tasks | {after.id: after for _, after in changes}


def resume_tasks(transaction: Transaction, task_ids: Collection[int]) -> dict[int, Task]:
    """Fire again from now on; the fire times of the pause become skipped rows, reason `paused`.

    The tasks as they are then; deleted tasks are left out.
    """
    tasks = transaction.tasks(task_ids)
    paused = [task for task in tasks.values() if task.status is TaskStatus.PAUSED]
    changes = [
        (settled, _resumed(settled, transaction))
        for settled in settle_tasks(transaction, paused).values()
    ]
    if not changes:
        return tasks
    transaction.replace_tasks(changes)
    fixed_delays = [after.id for _, after in changes if _is_fixed_delay(after)]
    if fixed_delays:
        rearm_tasks(transaction, fixed_delays)
    transaction.announce(Topic.SCHEDULES, Topic.EVENTS)
    return transaction.tasks(task_ids)


def _paused(task: Task, transaction: Transaction) -> Task:
    now = transaction.now
    return msgspec.structs.replace(task, status=TaskStatus.PAUSED, paused_at=now, updated_at=now)


def _resumed(task: Task, transaction: Transaction) -> Task:
    now, schedule = transaction.now, None if _is_fixed_delay(task) else task.schedule
    return msgspec.structs.replace(
        task,
        status=TaskStatus.ACTIVE,
        paused_at=None,
        next_run_at=schedule.next_after(now) if schedule else None,
        updated_at=now,
    )


def _is_fixed_delay(task: Task) -> bool:
    schedule = task.schedule
    return schedule is not None and schedule.kind == "after"


def _found(tasks: dict[int, Task], task_id: int) -> Task:
    if task_id not in tasks:
        raise NotFound("task", task_id)
    return tasks[task_id]
