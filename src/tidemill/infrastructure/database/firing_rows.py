"""Firings that were prepared ahead, and the runs they become."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import and_, bindparam, case, func, literal, not_, or_, select, text
from sqlalchemy.dialects.postgresql import insert  # SQLite writes the same

from tidemill.domain.new_run import SCHEDULE_KEY
from tidemill.domain.prepared_firing import PreparedFiring
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, Task
from tidemill.domain.task_run import Trigger, created
from tidemill.foundation.store import DueTask
from tidemill.infrastructure.database.prepared import in_array
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import (
    FIRES,
    IS_UNFINISHED,
    prepared_firings,
    task_runs,
    tasks,
)
from tidemill.infrastructure.database.task_rows import HAS_DEPENDENTS, TASK_COLUMNS, task_from

_FIELDS = PreparedFiring.__struct_fields__
_next = prepared_firings.c

_is_of_next_firing = and_(
    _next.task_id == tasks.c.id,
    _next.task_version == tasks.c.version,
    _next.scheduled_for == tasks.c.next_run_at,
)
_unprepared = (
    select(*TASK_COLUMNS)
    .where(
        text(FIRES),
        tasks.c.next_run_at > bindparam("now"),
        tasks.c.next_run_at <= bindparam("until"),
        not_(select(_next.task_id).where(_is_of_next_firing).exists()),
    )
    .order_by(tasks.c.next_run_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_next_due_after = select(func.min(tasks.c.next_run_at)).where(
    text(FIRES), tasks.c.next_run_at > bindparam("until")
)
_forget = prepared_firings.delete().where(in_array(_next.task_id, "ids"))
_is_alone = or_(
    _next.may_overlap,
    not_(
        select(task_runs.c.id)
        .where(text(IS_UNFINISHED), task_runs.c.task_id == tasks.c.id)
        .exists()
    ),
)
_comes_in_time = and_(
    _next.late_after >= bindparam("now"),
    or_(_next.following_at.is_(None), _next.following_at > bindparam("now")),
)
# Looked at when it fires: somebody may have come to depend on a task that was prepared.
_is_plain_now = and_(_next.is_plain, _comes_in_time, _is_alone, not_(HAS_DEPENDENTS))
_due = (
    select(tasks.c.id, case((_is_plain_now, 1), else_=0))
    .outerjoin(prepared_firings, _is_of_next_firing)
    .where(text(FIRES), tasks.c.next_run_at <= bindparam("now"))
    .order_by(tasks.c.next_run_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, of=tasks)
)
_RUN = {
    "namespace": tasks.c.namespace,
    "task_id": tasks.c.id,
    "task_name": tasks.c.name,
    "task_version": tasks.c.version,
    "task_type": tasks.c.task_type,
    "lane": _next.lane,
    "trigger": literal(Trigger.SCHEDULE, task_runs.c.trigger.type),
    "trigger_key": literal(SCHEDULE_KEY),
    "scheduled_for": _next.scheduled_for,
    "not_before": _next.scheduled_for,
    "priority": _next.priority,
    "rank": case(
        {
            each.level: bindparam(f"rank_{each.value}", type_=task_runs.c.rank.type)
            for each in Priority
        },
        value=_next.priority,
    ),
    "status": literal(RunStatus.PENDING, task_runs.c.status.type),
    "parameters": literal({}, task_runs.c.parameters.type),
    "attempt": literal(0),
    "max_attempts": _next.max_attempts,
    "losses": literal(0),
    "hand_backs": literal(0),
    "fence": literal(0),
    "concurrency_key": _next.concurrency_key,
    "concurrency_limit": _next.concurrency_limit,
    "timeout_seconds": _next.timeout_seconds,
    "missed_count": literal(0),
    "event_seq": literal(1),
    "log_seq": literal(0),
    "created_at": bindparam("now", type_=task_runs.c.created_at.type),
}
_create = (
    insert(task_runs)
    .from_select(
        list(_RUN),
        select(*_RUN.values())
        .join_from(tasks, prepared_firings, _next.task_id == tasks.c.id)
        .where(in_array(tasks.c.id, "ids"))
        .order_by(tasks.c.next_run_at),
        include_defaults=False,
    )
    .on_conflict_do_nothing()
    .returning(
        task_runs.c.id,
        task_runs.c.namespace,
        task_runs.c.lane,
        task_runs.c.concurrency_key.is_not(None),
    )
)
_advance = (
    tasks.update()
    .where(in_array(tasks.c.id, "ids"), _next.task_id == tasks.c.id)
    .values(next_run_at=_next.following_at, last_run_at=bindparam("now"))
)


class FiringRows(Rows):
    """The part of a transaction that prepares firings and makes runs of them."""

    def unprepared_tasks(self, until: datetime, limit: int) -> list[Task]:
        rows = self.fetch(_unprepared, now=self.now, until=until, limit=limit)
        found = [task_from(row) for row in rows]
        # Whoever claims their runs will ask for them at once.
        self.remember_definitions({(task.id, task.version): task.definition for task in found})
        return found

    def next_due_after(self, until: datetime) -> datetime | None:
        found: datetime | None = self.fetch(_next_due_after, until=until)[0][0]
        return found

    def save_prepared(self, firings: Sequence[PreparedFiring]) -> None:
        if firings:
            self.execute(_forget, ids=[firing.task_id for firing in firings])
            self.insert_rows(prepared_firings, _FIELDS, map(msgspec.structs.astuple, firings))

    def due_tasks(self, limit: int) -> list[DueTask]:
        rows = self.fetch(_due, now=self.now, limit=limit)
        return [DueTask(task_id, bool(is_plain)) for task_id, is_plain in rows]

    def fire_plainly(
        self, task_ids: Collection[int], ranks: Mapping[Priority, datetime]
    ) -> list[tuple[str, bool]]:
        named = {f"rank_{priority.value}": rank for priority, rank in ranks.items()}
        made = self.fetch(_create, ids=task_ids, now=self.now, **named)
        self.execute(_advance, ids=task_ids, now=self.now)
        self.append_events(
            [
                created(run_id, namespace, self.now, Trigger.SCHEDULE)
                for run_id, namespace, *_ in made
            ]
        )
        return [(lane, bool(has_key)) for _, _, lane, has_key in made]
