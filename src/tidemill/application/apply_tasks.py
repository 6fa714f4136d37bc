"""Tasks are made to be those of a list: all of it in one transaction, or none."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from tidemill.application.define_task import delete_tasks
from tidemill.application.define_tasks import Name, Plan, Wish, carry_out, plan_tasks
from tidemill.application.pace import paced
from tidemill.application.pause_task import pause_tasks, resume_tasks
from tidemill.domain.task import APPLIED_MARK, Task, TaskDefinition, TaskStatus
from tidemill.errors import InvalidInput, Problem
from tidemill.foundation.batches import in_batches
from tidemill.foundation.listing import PageRequest, TaskFilter
from tidemill.foundation.store import Transaction

Fate = Literal["created", "updated", "unchanged", "deleted"]

_READ_AT_ONCE = 5_000
_TOLD_AT_MOST = 1_000  # problems


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A task of the list. `problems` is all that is wrong with it whatever else there is."""

    definition: TaskDefinition
    status: TaskStatus | None = None  # None: as it is; a new one is active
    pointer: str = ""  # to where it stands in what was sent
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> Name:
        return self.definition.namespace, self.definition.name


class Applied(msgspec.Struct, frozen=True):
    """What became of a task; `id` is None where it would be created."""

    name: str
    namespace: str
    fate: Fate
    id: int | None
    version: int


def apply_tasks(
    transaction: Transaction,
    wanted: Sequence[Wanted],
    *,
    prune_in: str | None = None,
    dry_run: bool = False,
) -> list[Applied]:
    """What became of each task, in order, and of those that were deleted.

    A task that is as it should be is left alone; the others are marked as applied. Where
    `prune_in` names a namespace, its tasks that were applied before and are not wanted any more are
    deleted. A dry run changes nothing and says the same. Raises InvalidInput with every problem,
    and Conflict where a name was taken meanwhile.
    """
    transaction.lock_dependencies(_namespaces(wanted, prune_in))
    stored = _stored(transaction, wanted)
    surplus = [] if prune_in is None else _surplus(transaction, prune_in, stored.keys())
    gone = {task.id for task in surplus}
    wishes = list(_wishes(paced(transaction, wanted), stored))
    plan = plan_tasks(transaction, wishes, known=stored, gone=gone)
    _refuse(paced(transaction, wanted), plan, _left_behind(transaction, plan, surplus))
    if dry_run:
        after = {each.wish.name: each.wish for each in plan.edits}
        found = [
            _as_planned(each, stored.get(each.name), after.get(each.name))
            for each in paced(transaction, wanted)
        ]
    else:
        defined = {_name_of(task): task for task in carry_out(transaction, plan)}
        found = [
            _as_done(each, stored.get(each.name), defined.get(each.name))
            for each in paced(transaction, wanted)
        ]
        _set_statuses(transaction, wanted, stored)
        if surplus:
            delete_tasks(transaction, surplus)
    return found + [_applied("deleted", task) for task in surplus]


def _namespaces(wanted: Sequence[Wanted], prune_in: str | None) -> set[str]:
    connected = {each.definition.namespace for each in wanted if each.definition.names_others}
    return connected if prune_in is None else connected | {prune_in}


def _stored(transaction: Transaction, wanted: Sequence[Wanted]) -> dict[Name, Task]:
    names: dict[str, list[str]] = {}
    for each in wanted:
        names.setdefault(each.definition.namespace, []).append(each.definition.name)
    return {
        (namespace, name): task
        for namespace, of_it in names.items()
        for batch in in_batches(of_it, _READ_AT_ONCE)
        for name, task in transaction.tasks_in_force_named(namespace, batch).items()
    }


def _surplus(transaction: Transaction, namespace: str, kept: Collection[Name]) -> list[Task]:
    surplus: list[Task] = []
    page = transaction.list_tasks(TaskFilter(namespace=namespace), PageRequest("id", _READ_AT_ONCE))
    while True:
        surplus += [
            task
            for task in page.items
            if task.definition.metadata.items() >= APPLIED_MARK.items()
            and _name_of(task) not in kept
        ]
        if page.next is None:
            return surplus
        request = PageRequest("id", _READ_AT_ONCE, page.next)
        page = transaction.list_tasks(TaskFilter(namespace=namespace), request)


def _wishes(wanted: Iterable[Wanted], stored: dict[Name, Task]) -> Iterator[Wish]:
    """Those of which another definition is to be in force than there is."""
    for each in wanted:
        before = stored.get(each.name)
        marked = _marked(each.definition)
        if before is None or (_differs(each, before) and marked != before.definition):
            yield Wish(
                definition=marked,
                before=before,
                status=each.status or TaskStatus.ACTIVE,
                pointer=each.pointer,
                problems=each.problems,
            )


def _differs(wanted: Wanted, stored: Task) -> bool:
    return _has_other_status(wanted, stored) or (
        _marked(wanted.definition) != _marked(stored.definition)
    )


def _has_other_status(wanted: Wanted, stored: Task) -> bool:
    return wanted.status is not None and wanted.status is not stored.status


def _marked(definition: TaskDefinition) -> TaskDefinition:
    metadata = definition.metadata
    if metadata.items() >= APPLIED_MARK.items():
        return definition
    return msgspec.structs.replace(definition, metadata=metadata | APPLIED_MARK)


def _left_behind(transaction: Transaction, plan: Plan, surplus: Sequence[Task]) -> list[Problem]:
    """What would be deleted from under tasks that stay and are not changed."""
    if not surplus:
        return []
    gone = {task.id: task.definition.name for task in surplus}
    changed = {each.wish.before.id for each in plan.edits if each.wish.before is not None}
    [namespace] = {task.definition.namespace for task in surplus}
    stay = {
        task_id: upstream
        for task_id, upstream in transaction.upstream_edges(namespace).items()
        if task_id not in gone and task_id not in changed
    }
    held = {
        task_id: "depends on " + ", ".join(map(repr, lost))
        for task_id, upstream in stay.items()
        if (lost := [gone[each] for each in upstream if each in gone])
    }
    for caller, called in transaction.task_calls(namespace).items():
        if caller not in gone and caller not in changed and called in gone:
            said = f"calls {gone[called]!r}"
            held[caller] = f"{held[caller]}, and {said}" if caller in held else said
    dependents = transaction.tasks_in_force(held) if held else {}
    return [
        Problem("/prune", f"{task.definition.name!r} {held[id]}") for id, task in dependents.items()
    ]


def _refuse(wanted: Iterable[Wanted], plan: Plan, more: Sequence[Problem]) -> None:
    """Raise InvalidInput where anything is wrong, with all that is."""
    planned = {each.wish.name for each in plan.edits}
    seen: dict[Name, str] = {}
    problems: list[Problem] = []
    for each in wanted:
        wish = Wish(definition=each.definition, pointer=each.pointer)
        if seen.setdefault(each.name, each.pointer) != each.pointer:
            twice = Problem("/name", f"stands there twice, at {seen[each.name]} first")
            problems.append(wish.told(twice))
        if each.name not in planned:
            problems += map(wish.told, each.problems)
    problems += [*plan.problems, *more]
    if problems:
        count = f"{len(problems)} things are" if len(problems) > 1 else "one thing is"
        raise InvalidInput(f"nothing is applied: {count} wrong", problems[:_TOLD_AT_MOST])


def _as_planned(wanted: Wanted, stored: Task | None, wish: Wish | None) -> Applied:
    if stored is None:
        return Applied(wanted.definition.name, wanted.definition.namespace, "created", None, 1)
    if not _differs(wanted, stored):
        return _applied("unchanged", stored)
    version = stored.version if wish is None else stored.version + 1
    return _applied("updated", msgspec.structs.replace(stored, version=version))


def _as_done(wanted: Wanted, stored: Task | None, defined: Task | None) -> Applied:
    if stored is None:
        assert defined is not None
        return _applied("created", defined)
    return _applied("updated" if _differs(wanted, stored) else "unchanged", defined or stored)


def _applied(fate: Fate, task: Task) -> Applied:
    return Applied(task.definition.name, task.definition.namespace, fate, task.id, task.version)


def _set_statuses(
    transaction: Transaction, wanted: Sequence[Wanted], stored: dict[Name, Task]
) -> None:
    others = {
        stored[each.name].id: each.status
        for each in wanted
        if each.name in stored and _has_other_status(each, stored[each.name])
    }
    for status, set_status in (
        (TaskStatus.PAUSED, pause_tasks),
        (TaskStatus.ACTIVE, resume_tasks),
    ):
        task_ids = [task_id for task_id, wished in others.items() if wished is status]
        if task_ids:
            set_status(transaction, task_ids)


def _name_of(task: Task) -> Name:
    return task.definition.namespace, task.definition.name
