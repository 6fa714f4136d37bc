"""Tasks, their versions and their edges."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, literal_column, select, text

from tidemill.domain.task import Task, TaskDefinition
from tidemill.errors import Conflict, VersionMismatch
from tidemill.foundation.store import TaskAdvance, TaskEdge
from tidemill.infrastructure.database.prepared import in_array, in_long_array, probed
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import (
    FIRES,
    NOT_DELETED,
    prepared_firings,
    task_calls,
    task_dependencies,
    task_versions,
    tasks,
)

_FIELDS = Task.__struct_fields__

HAS_DEPENDENTS = (
    select(task_dependencies.c.task_id)
    .where(task_dependencies.c.upstream_task_id == tasks.c.id)
    .exists()
)
# A task and whether others depend on it, in the order of the fields of `Task`.
TASK_COLUMNS = (
    *(tasks.c[name] for name in _FIELDS if name in tasks.c),
    HAS_DEPENDENTS.label("has_dependents"),
)
_task = select(*TASK_COLUMNS).where(text(NOT_DELETED))
_by_id = _task.where(tasks.c.id == bindparam("task_id"))
_by_id_in_namespace = _by_id.where(tasks.c.namespace == bindparam("namespace"))
_by_name = _task.where(
    tasks.c.namespace == bindparam("namespace"), tasks.c.name == bindparam("name")
)
# The keys of tasks never change: rows that refer to one need not wait for whoever changes it.
# In one order, so that no two transactions wait for one another.
_by_ids = (
    _task.where(in_array(tasks.c.id, "ids")).order_by(tasks.c.id).with_for_update(key_share=True)
)
_in_force = _task.where(in_long_array(tasks.c.id, "ids"))
_named = tasks.alias("named")
_has_one_of_the_names = probed(
    tasks.c.id,
    select(_named.c.id).where(
        text(f"named.{NOT_DELETED}"),
        _named.c.namespace == bindparam("namespace"),
        _named.c.name == literal_column("wanted.value"),
    ),
    "names",
    tasks.c.name.type,
)
_in_force_by_names = _task.where(_has_one_of_the_names)
_by_names = _in_force_by_names.order_by(tasks.c.id).with_for_update(key_share=True)
_taken_names = select(tasks.c.id, tasks.c.name).where(_has_one_of_the_names)
_next_due = select(func.min(tasks.c.next_run_at)).where(text(FIRES))
_WRITTEN = (
    "namespace", "name", "task_type", "executor", "schedule", "priority", "tags", "version",
    "status", "definition", "anchor_at", "next_run_at", "paused_at", "last_run_at", "created_at",
    "updated_at",
)  # fmt: skip
_delete = (
    tasks.update()
    .where(in_array(tasks.c.id, "ids"), text(NOT_DELETED))
    .values(deleted_at=bindparam("now"), next_run_at=None)
)
_definitions = select(
    task_versions.c.task_id, task_versions.c.version, task_versions.c.definition
).where(in_array(task_versions.c.task_id, "ids"), in_array(task_versions.c.version, "versions"))
_forget_prepared = prepared_firings.delete().where(in_array(prepared_firings.c.task_id, "ids"))
_edges = select(task_dependencies.c.task_id, task_dependencies.c.upstream_task_id).where(
    task_dependencies.c.namespace == bindparam("namespace")
)
_calls = select(task_calls.c.task_id, task_calls.c.called_task_id).where(
    task_calls.c.namespace == bindparam("namespace")
)
_delete_calls = task_calls.delete().where(in_array(task_calls.c.task_id, "ids"))
_delete_edges = task_dependencies.delete().where(in_array(task_dependencies.c.task_id, "ids"))


class TaskRows(Rows):
    """The part of a transaction that reads and writes tasks."""

    def task(self, task_id: int, namespace: str | None = None) -> Task | None:
        if namespace is None:
            return _one(self.fetch(_by_id, task_id=task_id))
        return _one(self.fetch(_by_id_in_namespace, task_id=task_id, namespace=namespace))

    def task_named(self, namespace: str, name: str) -> Task | None:
        return _one(self.fetch(_by_name, namespace=namespace, name=name))

    def tasks(self, task_ids: Collection[int]) -> dict[int, Task]:
        return {row[0]: task_from(row) for row in self.fetch(_by_ids, ids=task_ids)}

    def tasks_named(self, namespace: str, names: Collection[str]) -> dict[str, Task]:
        found = [task_from(row) for row in self.fetch(_by_names, namespace=namespace, names=names)]
        return {task.definition.name: task for task in found}

    def tasks_in_force(self, task_ids: Collection[int]) -> dict[int, Task]:
        return {row[0]: task_from(row) for row in self.fetch(_in_force, ids=task_ids)}

    def tasks_in_force_named(self, namespace: str, names: Collection[str]) -> dict[str, Task]:
        rows = self.fetch(_in_force_by_names, namespace=namespace, names=names)
        return {task.definition.name: task for task in map(task_from, rows)}

    def note_last_run(self, task_ids: Collection[int]) -> None:
        rows = ((task_id, self.now) for task_id in sorted(task_ids))
        self.update_last(tasks, ("id",), ("last_run_at",), rows)

    def next_due_at(self) -> datetime | None:
        found: datetime | None = self.fetch(_next_due)[0][0]
        return found

    def advance_tasks(self, advances: Sequence[TaskAdvance]) -> None:
        self.update_rows(
            tasks, ("id",), ("next_run_at", "last_run_at"), map(msgspec.structs.astuple, advances)
        )

    def insert_tasks(self, new: Sequence[Task]) -> list[Task]:
        self._refuse_taken_names(new)
        statement = self.cache.insert(tasks, _WRITTEN, returning=("id", "namespace", "name"))
        rows = self.write_and_tell(statement, map(_columns_of, new))
        ids = {(namespace, name): task_id for task_id, namespace, name in rows}
        stored = [
            msgspec.structs.replace(each, id=ids[each.definition.namespace, each.definition.name])
            for each in new
        ]
        self._insert_versions(stored)
        return stored

    def replace_tasks(self, changes: Sequence[tuple[Task, Task]]) -> None:
        self._refuse_taken_names([after for before, after in changes if after.key != before.key])
        replaced = self.update_rows(
            tasks,
            ("id", "version"),
            _WRITTEN,
            ((before.id, before.version, *_columns_of(after)) for before, after in changes),
            where=NOT_DELETED,
        )
        if replaced != len(changes):
            raise VersionMismatch("a task was changed since it was read")
        self._insert_versions(
            [after for before, after in changes if after.version != before.version]
        )

    def _refuse_taken_names(self, wanted: Sequence[Task]) -> None:
        by_namespace: dict[str, dict[str, int]] = {}
        for task in wanted:
            names = by_namespace.setdefault(task.definition.namespace, {})
            names[task.definition.name] = task.id
        for namespace, names in by_namespace.items():
            for task_id, name in self.fetch(_taken_names, namespace=namespace, names=names):
                if task_id != names[name]:
                    raise Conflict(f"a task named {name!r} exists already in {namespace!r}")

    def _insert_versions(self, new: Sequence[Task]) -> None:
        self.fresh_versions.update((task.id, task.version) for task in new)
        self.insert_rows(
            task_versions,
            ("task_id", "version", "definition", "created_at"),
            ((task.id, task.version, task.definition, task.updated_at) for task in new),
        )

    def delete_tasks(self, task_ids: Collection[int]) -> None:
        self.execute(_delete, ids=task_ids, now=self.now)
        self.execute(_forget_prepared, ids=task_ids)

    def definitions(
        self, keys: Collection[tuple[int, int]]
    ) -> Mapping[tuple[int, int], TaskDefinition]:
        known = self.cache.definitions
        found = {key: known[key] for key in keys if key in known}
        missing = set(keys) - found.keys()
        if missing:
            rows = self.fetch(
                _definitions,
                ids={task_id for task_id, _ in missing},
                versions={version for _, version in missing},
            )
            read = {(task_id, version): definition for task_id, version, definition in rows}
            self.remember_definitions(read)
            found |= read
        return found

    def lock_dependencies(self, namespaces: Collection[str]) -> None:
        """Whatever an engine needs for it."""
        raise NotImplementedError

    def upstream_edges(self, namespace: str) -> dict[int, list[int]]:
        edges: dict[int, list[int]] = {}
        for task_id, upstream in self.fetch(_edges, namespace=namespace):
            edges.setdefault(task_id, []).append(upstream)
        return edges

    def replace_dependencies(
        self, namespace: str, task_ids: Collection[int], edges: Sequence[TaskEdge]
    ) -> None:
        if task_ids:
            self.execute(_delete_edges, ids=task_ids)
        self.insert_rows(
            task_dependencies,
            ("task_id", "upstream_task_id", "namespace", "condition"),
            ((each.task_id, each.upstream_task_id, namespace, each.condition) for each in edges),
        )

    def task_calls(self, namespace: str) -> dict[int, int]:
        return dict(self.fetch(_calls, namespace=namespace))

    def add_task_calls(self, namespace: str, calls: Mapping[int, int]) -> None:
        self.insert_rows(
            task_calls,
            ("task_id", "called_task_id", "namespace"),
            ((task_id, called, namespace) for task_id, called in calls.items()),
        )

    def forget_task_calls(self, task_ids: Collection[int]) -> None:
        self.execute(_delete_calls, ids=task_ids)


def task_from(row: list[Any]) -> Task:
    """A row of the columns that `Task` names."""
    return Task(**dict(zip(_FIELDS, row, strict=True)))


def _one(rows: list[list[Any]]) -> Task | None:
    return task_from(rows[0]) if rows else None


def _columns_of(task: Task) -> tuple[Any, ...]:
    """In the order of `_WRITTEN`."""
    definition = task.definition
    return (
        definition.namespace,
        definition.name,
        definition.task_type,
        definition.executor,
        definition.schedule,
        definition.priority.value,
        definition.tags,
        task.version,
        task.status,
        definition,
        task.anchor_at,
        task.next_run_at,
        task.paused_at,
        task.last_run_at,
        task.created_at,
        task.updated_at,
    )
