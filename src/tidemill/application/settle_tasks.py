"""What is due of tasks is accounted for before they change."""

from collections.abc import Sequence

import msgspec

from tidemill.application.fire_due_tasks import fire_tasks
from tidemill.domain.misfire import skipped_while_paused
from tidemill.domain.new_run import rows_of_skips
from tidemill.domain.task import Task, TaskStatus
from tidemill.domain.task_run import TaskRun
from tidemill.errors import Unavailable
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_ROUNDS = 10  # of firing what is due, each of a bounded number of rows


def settle_tasks(transaction: Transaction, tasks: Sequence[Task]) -> dict[int, Task]:
    """Give every fire time of locked tasks up to now its row, under the versions in force.

    Those that are active fire; the times that a paused one has missed become skipped rows, reason
    `paused`. Returns the tasks as they stand then. Raises Unavailable where more is due than one
    transaction should hold; the dispatcher works it off.
    """
    settled = {task.id: task for task in tasks}
    settled |= _account_for_pauses(transaction, tasks)
    rounds = 0
    while due := [task for task in settled.values() if _is_due(transaction, task)]:
        if rounds == _ROUNDS:
            raise Unavailable(
                f"thousands of firings of task {due[0].id} are due and come first; try again soon"
            )
        fire_tasks(transaction, due)
        settled |= transaction.tasks([task.id for task in due])
        rounds += 1
    return settled


def _is_due(transaction: Transaction, task: Task) -> bool:
    is_active = task.status is TaskStatus.ACTIVE
    return is_active and task.next_run_at is not None and task.next_run_at <= transaction.now


def _account_for_pauses(transaction: Transaction, tasks: Sequence[Task]) -> dict[int, Task]:
    now = transaction.now
    rows: list[TaskRun] = []
    changes: list[tuple[Task, Task]] = []
    for task in tasks:
        schedule = task.schedule if task.status is TaskStatus.PAUSED else None
        if schedule is None or schedule.kind == "after":
            continue
        assert task.paused_at is not None
        plan = skipped_while_paused(schedule, task.paused_at, now)
        rows += [row for row, _ in rows_of_skips(task, plan, now)]
        # From here on the pause is not yet accounted for.
        changes.append((task, msgspec.structs.replace(task, paused_at=now)))
    if changes:
        transaction.insert_runs(rows)
        transaction.announce(Topic.EVENTS)
        transaction.replace_tasks(changes)
    return {after.id: after for _, after in changes}
