"""Tasks are defined, changed and deleted; each change of the definition is a version."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from graphlib import CycleError, TopologicalSorter

import msgspec

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.release_dependents import give_up_outside_edges
from tidemill.application.settle_task import settle_task
from tidemill.application.trigger_runs import find_task
from tidemill.domain.mapping import map_problems
from tidemill.domain.run_status import LEASED, NOT_STARTED
from tidemill.domain.task import Task, TaskDefinition, TaskStatus, schedule_of
from tidemill.domain.trigger_rule import rule_problems
from tidemill.errors import Conflict, InvalidInput, NotFound, Problem, VersionMismatch
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

Check = Callable[[TaskDefinition], Sequence[Problem]]

_TIME_FIELDS = ("schedule", "timezone", "dst", "start_at", "end_at")


def create_task(
    transaction: Transaction,
    definition: TaskDefinition,
    check: Check,
    status: TaskStatus = TaskStatus.ACTIVE,
) -> Task:
    """Store a new task. Raises InvalidInput with every problem, Conflict on a taken name."""
    now = transaction.now
    anchor = definition.start_at or now
    edges = _checked(transaction, definition, check, None)
    task = transaction.insert_task(
        Task(
            id=0,
            version=1,
            status=status,
            definition=definition,
            anchor_at=anchor,
            next_run_at=_first_fire(definition, anchor, now),
            paused_at=now if status is TaskStatus.PAUSED else None,
            created_at=now,
            updated_at=now,
        )
    )
    _store_edges(transaction, task, edges)
    transaction.announce(Topic.SCHEDULES)
    return task


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
    before = _settled(transaction, task_id, expected_edition)
    if definition == before.definition:
        return before
    edges = _checked(transaction, definition, check, task_id)
    _refuse_to_leave_dependents(transaction, before, definition)
    after = _redefined(before, definition, transaction.now)
    transaction.replace_task(before, after)
    _store_edges(transaction, after, edges)
    transaction.announce(Topic.SCHEDULES)
    return after


def delete_task(
    transaction: Transaction, task_id: int, *, expected_edition: str | None = None
) -> None:
    """Nothing of the task starts any more; what runs may end, without another attempt.

    Raises NotFound, VersionMismatch, and Conflict while other tasks depend on it.
    """
    task = _settled(transaction, task_id, expected_edition)
    dependents = _dependents_of(transaction, task)
    if dependents:
        raise _needed_by(dependents)
    transaction.delete_task(task_id)
    transaction.replace_dependencies(task_id, task.definition.namespace, {})
    give_up_outside_edges(transaction, task_id)
    cancel_runs(transaction, transaction.runs_of_tasks([task_id], NOT_STARTED), "task_deleted")
    for run in transaction.runs_of_tasks([task_id], LEASED):
        transaction.note_progress(run.id, max_attempts=0)
    transaction.announce(Topic.SCHEDULES)


def _redefined(before: Task, definition: TaskDefinition, now: datetime) -> Task:
    """The next version; only another schedule moves the anchor and must have a time left."""
    after = msgspec.structs.replace(
        before, version=before.version + 1, definition=definition, updated_at=now
    )
    if any(getattr(definition, f) != getattr(before.definition, f) for f in _TIME_FIELDS):
        anchor = definition.start_at or now
        return msgspec.structs.replace(
            after, anchor_at=anchor, next_run_at=_first_fire(definition, anchor, now)
        )
    if after.key == before.key or after.schedule is None:
        return after
    # Hash-spread times hang on the name.
    return msgspec.structs.replace(after, next_run_at=after.schedule.next_after(now))


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
            if any(dependency.task == named for dependency in each.definition.dependencies)
        ]
    if dependents:
        raise _needed_by(dependents)


def _dependents_of(transaction: Transaction, task: Task) -> list[Task]:
    edges = transaction.upstream_edges(task.definition.namespace)
    ids = [task_id for task_id, upstream in edges.items() if task.id in upstream]
    return _looked_up(transaction, ids)


def _looked_up(transaction: Transaction, task_ids: Iterable[int]) -> list[Task]:
    """These tasks, not locked: whoever edits one may be waiting for the edges that we hold."""
    found = map(transaction.task, task_ids)
    return [task for task in found if task is not None]


def _needed_by(dependents: Sequence[Task]) -> Conflict:
    names = ", ".join(sorted(task.definition.name for task in dependents))
    return Conflict(f"other tasks depend on it: {names}; change or delete them first")


def _settled(transaction: Transaction, task_id: int, expected_edition: str | None) -> Task:
    """The task, locked, with everything that was due by now fired under the version in force."""
    task = transaction.tasks([task_id]).get(task_id)
    if task is None:
        raise NotFound("task", task_id)
    if expected_edition is not None and task.edition != expected_edition:
        raise VersionMismatch(f"task {task_id} is at edition {task.edition} by now")
    return settle_task(transaction, task)


def _first_fire(definition: TaskDefinition, anchor: datetime, now: datetime) -> datetime | None:
    schedule = schedule_of(definition, anchor)
    if schedule is None:
        return None
    first = schedule.next_after(now)
    if first is None:
        raise InvalidInput(
            f"the schedule {definition.schedule!r} never fires after now",
            [Problem("/schedule", "no fire time is left; give one that lies in the future")],
        )
    return first


def _checked(
    transaction: Transaction, definition: TaskDefinition, check: Check, task_id: int | None
) -> dict[int, str]:
    """Raise InvalidInput with all that is wrong; else the upstream ids and their conditions."""
    problems = [*check(definition), *map_problems(definition)]
    try:
        schedule_of(definition, transaction.now)
    except InvalidInput as error:
        problems += error.problems or [Problem("/schedule", str(error))]
    edges: dict[int, str] = {}
    names: set[str] = set()
    for index, dependency in enumerate(definition.dependencies):
        upstream = find_task(transaction, definition.namespace, dependency.task)
        pointer = f"/dependencies/{index}/task"
        if upstream is None:
            problems.append(Problem(pointer, f"no task {dependency.task!r}"))
        elif upstream.id == task_id or upstream.definition.name == definition.name:
            problems.append(Problem(pointer, "a task cannot depend on itself"))
        else:
            edges[upstream.id] = dependency.condition
            names.add(upstream.definition.name)
    problems += rule_problems(definition, names)
    if edges and task_id is not None and not problems:
        problems += _cycle(transaction, definition.namespace, task_id, edges)
    if problems:
        raise InvalidInput(f"the task {definition.name!r} cannot be accepted", problems)
    return edges


def _cycle(
    transaction: Transaction, namespace: str, task_id: int, edges: Mapping[int, str]
) -> list[Problem]:
    graph = transaction.upstream_edges(namespace) | {task_id: list(edges)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        members = error.args[1]
        found = _looked_up(transaction, set(members))
        names = {task.id: task.definition.name for task in found}
        path = " → ".join(names.get(member, str(member)) for member in reversed(members))
        return [Problem("/dependencies", f"these tasks would wait for each other: {path}")]
    return []


def _store_edges(transaction: Transaction, task: Task, edges: Mapping[int, str]) -> None:
    if edges or task.version > 1:
        transaction.replace_dependencies(task.id, task.definition.namespace, edges)
