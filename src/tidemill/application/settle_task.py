"""What is due of a task is accounted for before the task changes."""

import msgspec

from tidemill.application.fire_due_tasks import fire_tasks
from tidemill.domain.misfire import skipped_while_paused
from tidemill.domain.new_run import rows_of_skips
from tidemill.domain.task import Task, TaskStatus
from tidemill.errors import Unavailable
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_ROUNDS = 10  # of firing what is due, each of a bounded number of rows


def settle_task(transaction: Transaction, task: Task) -> Task:
    """Give every fire time of a locked task up to now its row, under the version in force.

    An active task fires; the times that a paused one has missed become skipped rows, reason
    `paused`. Returns the task as it stands then. Raises Unavailable where more is due than one
    transaction should hold; the dispatcher works it off.
    """
    if task.status is TaskStatus.PAUSED:
        return _account_for_pause(transaction, task)
    rounds = 0
    while task.next_run_at is not None and task.next_run_at <= transaction.now:
        if rounds == _ROUNDS:
            raise Unavailable(
                f"thousands of firings of task {task.id} are due and come first; try again soon"
            )
        fire_tasks(transaction, [task])
        task = transaction.tasks([task.id])[task.id]
        rounds += 1
    return task


def _account_for_pause(transaction: Transaction, task: Task) -> Task:
    schedule, now = task.schedule, transaction.now
    assert task.paused_at is not None
    if schedule is None or schedule.kind == "after":
        return task
    plan = skipped_while_paused(schedule, task.paused_at, now)
    transaction.insert_runs([row for row, _ in rows_of_skips(task, plan, now)])
    transaction.announce(Topic.EVENTS)
    # From here on the pause is not yet accounted for.
    settled = msgspec.structs.replace(task, paused_at=now)
    transaction.replace_task(task, settled)
    return settled
