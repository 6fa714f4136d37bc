"""A task is defined, changed or deleted; each change of the definition is a version."""

from collections.abc import Sequence

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_tasks import (
    Check,
    Wish,
    carry_out,
    lock_dependencies,
    locked_as_read,
    plan_tasks,
    problems_of,
)
from tidemill.application.release_dependents import give_up_outside_edges
from tidemill.application.settle_tasks import settle_tasks
from tidemill.domain.run_status import LEASED, NOT_STARTED
from tidemill.domain.task import Task, TaskDefinition, TaskStatus
from tidemill.errors import Conflict, InvalidInput, NotFound, VersionMismatch
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def create_task(
    transaction: Transaction,
    definition: TaskDefinition,
    check: Check,
    status: TaskStatus = TaskStatus.ACTIVE,
) -> Task:
    """Store a new task. Raises InvalidInput with every problem, Conflict on a taken name."""
    problems = problems_of(definition, check)
    return _define(transaction, Wish(definition=definition, status=status, problems=problems))


def replace_task(
    transaction: Transaction,
    task_id: int,
    definition: TaskDefinition,
    check: Check,
    *,
    expected_edition: str | None = None,
) -> Task:
    """Put another definition in force. What was due before fires under the old one.

    The same definition again changes nothing. Raises NotFound, VersionMismatch where the edition
    is not the expected one, InvalidInput, and Conflict where the name is taken, or where others
    depend on the task under the name or in the namespace that it is to leave.
    """
    before = _as_expected(transaction, task_id, expected_edition)
    if definition == before.definition:
        return before
    problems = problems_of(definition, check)
    wish = Wish(definition=definition, before=before, problems=problems)
    lock_dependencies(transaction, [wish])
    _refuse_to_leave_dependents(transaction, before, definition)
    return _define(transaction, wish)


def delete_task(
    transaction: Transaction, task_id: int, *, expected_edition: str | None = None
) -> None:
    """Nothing of the task starts any more; what runs may end, without another attempt.

    Raises NotFound, VersionMismatch, and Conflict while other tasks depend on it.
    """
    task = _as_expected(transaction, task_id, expected_edition)
    transaction.lock_dependencies([task.definition.namespace])
    dependents = _dependents_of(transaction, task)
    if dependents:
        raise _needed_by(dependents)
    delete_tasks(transaction, [task])


def delete_tasks(transaction: Transaction, tasks: Sequence[Task]) -> None:
    """Delete tasks, on which nobody depends but one another; the caller holds the lock of that.

    Raises ConcurrentChange where one is not as it was read.
    """
    before = {task.id: task for task in tasks}
    settle_tasks(transaction, locked_as_read(transaction, before))
    transaction.delete_tasks(before)
    for namespace in {task.definition.namespace for task in tasks}:
        transaction.replace_dependencies(namespace, before, [])
    transaction.forget_task_calls(before)
    give_up_outside_edges(transaction, before)
    cancel_runs(transaction, transaction.runs_of_tasks(before, NOT_STARTED), "task_deleted")
    for run in transaction.runs_of_tasks(before, LEASED):
        transaction.note_progress(run.id, max_attempts=0)
    transaction.announce(Topic.SCHEDULES)


def _define(transaction: Transaction, wish: Wish) -> Task:
    lock_dependencies(transaction, [wish])
    plan = plan_tasks(transaction, [wish], known={})
    if plan.problems:
        alone = f": {plan.problems[0].message}" if len(plan.problems) == 1 else ""
        raise InvalidInput(
            f"the task {wish.definition.name!r} cannot be accepted{alone}", plan.problems
        )
    [task] = carry_out(transaction, plan)
    return task


def _as_expected(transaction: Transaction, task_id: int, expected_edition: str | None) -> Task:
    """The task, not yet locked: who edits others may hold it and wait for what we are to lock."""
    task = transaction.task(task_id)
    if task is None:
        raise NotFound("task", task_id)
    if expected_edition is not None and task.edition != expected_edition:
        raise VersionMismatch(f"task {task_id} is at edition {task.edition} by now")
    return task


def _refuse_to_leave_dependents(
    transaction: Transaction, task: Task, definition: TaskDefinition
) -> None:
    """Raise Conflict where tasks that depend on this one would not find it any more."""
    old = task.definition
    if (definition.namespace, definition.name) == (old.namespace, old.name):
        return
    dependents = _dependents_of(transaction, task)
    if definition.namespace == old.namespace:
        named = f"name:{old.name}"
        dependents = [
            each
            for each in dependents
            if each.definition.called_task == named
            or any(dependency.task == named for dependency in each.definition.dependencies)
        ]
    if dependents:
        raise _needed_by(dependents)


def _dependents_of(transaction: Transaction, task: Task) -> list[Task]:
    """The tasks that depend on it or call it."""
    edges = transaction.upstream_edges(task.definition.namespace)
    ids = {task_id for task_id, upstream in edges.items() if task.id in upstream}
    calls = transaction.task_calls(task.definition.namespace)
    ids |= {caller for caller, called in calls.items() if called == task.id}
    return list(transaction.tasks_in_force(ids).values()) if ids else []


def _needed_by(dependents: Sequence[Task]) -> Conflict:
    names = ", ".join(sorted(task.definition.name for task in dependents))
    return Conflict(f"other tasks depend on it or call it: {names}; change or delete them first")
