"""What is due of a task is accounted for before the task changes."""

import msgspec

from tidemill.application.fire_due_tasks import fire_tasks
from tidemill.domain.misfire import skipped_while_paused
from tidemill.domain.new_run import skipped_run
from tidemill.domain.task import Task, TaskStatus
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def settle_task(transaction: Transaction, task: Task) -> Task:
    """Give every fire time of a locked task up to now its row, under the version in force.

    An active task fires; the times that a paused one has missed become skipped rows, reason
    `paused`. Returns the task as it stands then.
    """
    if task.status is TaskStatus.PAUSED:
        return _account_for_pause(transaction, task)
    if task.next_run_at is None or task.next_run_at > transaction.now:
        return task
    fire_tasks(transaction, [task])
    return transaction.tasks([task.id])[task.id]


def _account_for_pause(transaction: Transaction, task: Task) -> Task:
    schedule, now = task.schedule, transaction.now
    assert task.paused_at is not None
    if schedule is None or schedule.kind == "after":
        return task
    plan = skipped_while_paused(schedule, task.paused_at, now)
    rows = [skipped_run(task, skip.scheduled_for, now, skip.reason) for skip in plan.skipped]
    rows += [
        skipped_run(
            task,
            stretch.last,
            now,
            stretch.reason,
            range_from=stretch.first,
            count=stretch.count,
        )
        for stretch in plan.ranges
    ]
    transaction.insert_runs(rows)
    transaction.announce(Topic.EVENTS)
    # From here on the pause is not yet accounted for.
    settled = msgspec.structs.replace(task, paused_at=now)
    transaction.replace_task(task, settled)
    return settled
