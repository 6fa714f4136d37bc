"""Tasks, their versions and their edges."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, text

from tidemill.domain.task import Task, TaskDefinition
from tidemill.errors import Conflict, VersionMismatch
from tidemill.foundation.store import TaskAdvance
from tidemill.infrastructure.database.prepared import in_array
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import (
    FIRES,
    NOT_DELETED,
    prepared_firings,
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
_by_ids = _task.where(in_array(tasks.c.id, "ids")).with_for_update(key_share=True)
_in_force = _task.where(in_array(tasks.c.id, "ids"))
_by_names = _task.where(
    tasks.c.namespace == bindparam("namespace"), in_array(tasks.c.name, "names")
).with_for_update(key_share=True)
_note_last_run = (
    tasks.update().where(in_array(tasks.c.id, "ids")).values(last_run_at=bindparam("now"))
)
_next_due = select(func.min(tasks.c.next_run_at)).where(text(FIRES))
_replace = (
    tasks.update()
    .where(
        tasks.c.id == bindparam("task_id"),
        tasks.c.version == bindparam("version_before"),
        text(NOT_DELETED),
    )
    .values(
        {
            name: bindparam(f"new_{name}", type_=tasks.c[name].type)
            for name in (
                "namespace", "name", "task_type", "executor", "schedule", "priority", "tags",
                "version", "status", "definition", "anchor_at", "next_run_at", "paused_at",
                "last_run_at", "updated_at",
            )
        }
    )
)  # fmt: skip
_delete = (
    tasks.update()
    .where(tasks.c.id == bindparam("task_id"), text(NOT_DELETED))
    .values(deleted_at=bindparam("now"), next_run_at=None)
)
_definitions = select(
    task_versions.c.task_id, task_versions.c.version, task_versions.c.definition
).where(in_array(task_versions.c.task_id, "ids"), in_array(task_versions.c.version, "versions"))
_has_version = select(task_versions.c.version).where(
    task_versions.c.task_id == bindparam("task_id"),
    task_versions.c.version == bindparam("version"),
)
_forget_prepared = prepared_firings.delete().where(
    prepared_firings.c.task_id == bindparam("task_id")
)
_edges = select(task_dependencies.c.task_id, task_dependencies.c.upstream_task_id).where(
    task_dependencies.c.namespace == bindparam("namespace")
)
_delete_edges = task_dependencies.delete().where(
    task_dependencies.c.task_id == bindparam("task_id")
)


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

    def note_last_run(self, task_ids: Collection[int]) -> None:
        self.execute(_note_last_run, ids=task_ids, now=self.now)

    def next_due_at(self) -> datetime | None:
        found: datetime | None = self.fetch(_next_due)[0][0]
        return found

    def advance_tasks(self, advances: Sequence[TaskAdvance]) -> None:
        self.update_rows(
            tasks, ("id",), ("next_run_at", "last_run_at"), map(msgspec.structs.astuple, advances)
        )

    def insert_task(self, task: Task) -> Task:
        self._refuse_taken_name(task)
        statement = tasks.insert().returning(tasks.c.id)
        prepared = self.cache.shaped(
            ("insert task",),
            statement.values(
                {name: bindparam(name, type_=tasks.c[name].type) for name in _columns_of(task)}
            ),
        )
        assert prepared is not None
        rows = self.connection.fetch(prepared.sql, prepared.bind(_columns_of(task)))
        stored = msgspec.structs.replace(task, id=rows[0][0])
        self._insert_version(stored)
        return stored

    def _refuse_taken_name(self, task: Task) -> None:
        namespace, name = task.definition.namespace, task.definition.name
        holder = self.task_named(namespace, name)
        if holder is not None and holder.id != task.id:
            raise Conflict(f"a task named {name!r} exists already in {namespace!r}")

    def replace_task(self, before: Task, after: Task) -> None:
        if after.key != before.key:
            self._refuse_taken_name(after)
        columns = {f"new_{name}": value for name, value in _columns_of(after).items()}
        if not self.execute(_replace, task_id=before.id, version_before=before.version, **columns):
            raise VersionMismatch(f"task {before.id} was changed since version {before.version}")
        if not self.fetch(_has_version, task_id=after.id, version=after.version):
            self._insert_version(after)

    def _insert_version(self, task: Task) -> None:
        self.fresh_versions.add((task.id, task.version))
        self.insert_rows(
            task_versions,
            ("task_id", "version", "definition", "created_at"),
            [(task.id, task.version, task.definition, task.updated_at)],
        )

    def delete_task(self, task_id: int) -> None:
        self.execute(_delete, task_id=task_id, now=self.now)
        self.execute(_forget_prepared, task_id=task_id)

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

    def upstream_edges(self, namespace: str) -> dict[int, list[int]]:
        edges: dict[int, list[int]] = {}
        for task_id, upstream in self.fetch(_edges, namespace=namespace):
            edges.setdefault(task_id, []).append(upstream)
        return edges

    def replace_dependencies(self, task_id: int, namespace: str, edges: Mapping[int, str]) -> None:
        self.execute(_delete_edges, task_id=task_id)
        self.insert_rows(
            task_dependencies,
            ("task_id", "upstream_task_id", "namespace", "condition"),
            [(task_id, upstream, namespace, condition) for upstream, condition in edges.items()],
        )


def task_from(row: list[Any]) -> Task:
    """A row of the columns that `Task` names."""
    return Task(**dict(zip(_FIELDS, row, strict=True)))


def _one(rows: list[list[Any]]) -> Task | None:
    return task_from(rows[0]) if rows else None


def _columns_of(task: Task) -> dict[str, Any]:
    definition = task.definition
    return {
        "namespace": definition.namespace,
        "name": definition.name,
        "task_type": definition.task_type,
        "executor": definition.executor,
        "schedule": definition.schedule,
        "priority": definition.priority.value,
        "tags": definition.tags,
        "version": task.version,
        "status": task.status,
        "definition": definition,
        "anchor_at": task.anchor_at,
        "next_run_at": task.next_run_at,
        "paused_at": task.paused_at,
        "last_run_at": task.last_run_at,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
    }
