"""Lists and summaries: what people and the API look at."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Table,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Select

from tidemill.domain.events import RunEvent
from tidemill.domain.flow_run import FlowRun
from tidemill.domain.new_run import SCHEDULE_KEY
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task import Task
from tidemill.domain.task_run import RunAttempt, TaskRun
from tidemill.domain.worker import Worker
from tidemill.foundation.listing import (
    FlowRunFilter,
    LaneDepth,
    LedgerCount,
    Page,
    PageRequest,
    Position,
    RunFilter,
    RunStats,
    TaskFilter,
    WorkerFilter,
)
from tidemill.foundation.store import EventPosition, LogLines, StoredEvent, TaskVersion
from tidemill.infrastructure.database.flow_rows import flow_run_from
from tidemill.infrastructure.database.prepared import HasElement, SecondsBetween, struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.run_rows import run_from
from tidemill.infrastructure.database.tables import (
    HAS_ENDED,
    IS_LEASED,
    IS_READY,
    IS_UNFINISHED,
    NOT_DELETED,
    flow_runs,
    once_found,
    run_attempts,
    run_events,
    run_logs,
    task_runs,
    task_versions,
    tasks,
    workers,
)
from tidemill.infrastructure.database.task_rows import TASK_COLUMNS, task_from
from tidemill.infrastructure.database.types import instant_of, microseconds_of
from tidemill.infrastructure.database.worker_rows import worker_from

T = TypeVar("T")

_RATE_WINDOW = timedelta(minutes=1)

_runs = task_runs.c
_fired = and_(
    _runs.task_id == bindparam("task_id"),
    _runs.trigger_key == SCHEDULE_KEY,  # the parts of a run have keys of their own
    _runs.scheduled_for >= bindparam("since", type_=_runs.scheduled_for.type),
    _runs.scheduled_for < bindparam("until", type_=_runs.scheduled_for.type),
)
_stands_for = case((_runs.range_from.is_not(None), _runs.missed_count + 1), else_=1)
_ledger_counts = (
    select(_runs.status, _runs.reason, cast(func.sum(_stands_for), BigInteger))
    .where(_fired)
    .group_by(_runs.status, _runs.reason)
)
_ledger_rows = (
    struct_columns(task_runs, TaskRun.__struct_fields__)
    .where(_fired)
    .order_by(_runs.scheduled_for, _runs.id)
    .limit(bindparam("limit"))
)
_attempts = (
    struct_columns(run_attempts, RunAttempt.__struct_fields__)
    .where(run_attempts.c.run_id == bindparam("run_id"))
    .order_by(run_attempts.c.attempt)
)
_under_way = struct_columns(task_runs, ("id", "attempt", "fence", "worker_id", "started_at")).where(
    text(once_found(IS_LEASED)), _runs.id == bindparam("run_id")
)
_event = struct_columns(run_events, RunEvent.__struct_fields__)
_events = (
    _event.where(run_events.c.run_id == bindparam("run_id"), run_events.c.seq > bindparam("after"))
    .order_by(run_events.c.seq)
    .limit(bindparam("limit"))
)
_all_events = (
    _event.add_columns(run_events.c.id)
    .where(
        run_events.c.id > bindparam("after"),
        or_(
            bindparam("namespace", type_=run_events.c.namespace.type).is_(None),
            run_events.c.namespace == bindparam("namespace"),
        ),
    )
    .order_by(run_events.c.id)
    .limit(bindparam("limit"))
)
_last_event = select(func.max(run_events.c.id))
_logs = (
    struct_columns(run_logs, LogLines.__struct_fields__)
    .where(run_logs.c.run_id == bindparam("run_id"), run_logs.c.last_seq > bindparam("after"))
    .order_by(run_logs.c.first_seq)
    .limit(bindparam("limit"))
)
_seconds_taken = SecondsBetween(_runs.started_at, _runs.completed_at)
# Not the column itself: to group by its index, SQLite would read all that ever ended.
_ended_status = type_coerce(func.coalesce(_runs.status, ""), _runs.status.type)
_ready_lanes = (
    select(_runs.lane, func.count(), func.min(_runs.not_before))
    .where(text(IS_READY))
    .group_by(_runs.lane)
)
_is_recent = _runs.started_at > bindparam("since", type_=_runs.started_at.type)
_running_lanes = (
    select(_runs.lane, func.count(), func.sum(case((_is_recent, 1), else_=0)))
    .where(text(IS_LEASED))
    .group_by(_runs.lane)
)
_lately_ended_lanes = (
    select(_runs.lane, func.count())
    .where(
        text(HAS_ENDED),
        _runs.completed_at > bindparam("since", type_=_runs.started_at.type),
        _is_recent,
    )
    .group_by(_runs.lane)
)
_status_counts = (
    select(_runs.status, func.count()).where(text(IS_UNFINISHED)).group_by(_runs.status)
)


class QueryRows(Rows):
    """The part of a transaction that only looks."""

    def list_tasks(self, wanted: TaskFilter, page: PageRequest) -> Page[Task]:
        conditions: list[ColumnElement[bool]] = [text(NOT_DELETED)]  # type: ignore[list-item]
        if wanted.namespace is not None:
            conditions.append(tasks.c.namespace == wanted.namespace)
        if wanted.status is not None:
            conditions.append(tasks.c.status == wanted.status)
        if wanted.task_type is not None:
            conditions.append(tasks.c.task_type == wanted.task_type)
        if wanted.name is not None:
            conditions.append(tasks.c.name == wanted.name)
        if wanted.tag is not None:
            conditions.append(HasElement(tasks.c.tags, bindparam("tag", wanted.tag)))
        query = select(*TASK_COLUMNS).where(*conditions)
        found = [task_from(row) for row in self._page(query, tasks, page)]
        return _cut(found, page, lambda task: _sort_value(task, task.definition, page.sort))

    def list_runs(self, wanted: RunFilter, page: PageRequest) -> Page[TaskRun]:
        conditions: list[ColumnElement[bool]] = []
        for name in ("namespace", "task_id", "worker_id", "trigger", "flow_run_id", "part_of"):
            value = getattr(wanted, name)
            if value is not None:
                conditions.append(_runs[name] == value)
        if wanted.scheduled_after is not None:
            conditions.append(_runs.scheduled_for >= wanted.scheduled_after)
        if wanted.scheduled_before is not None:
            conditions.append(_runs.scheduled_for < wanted.scheduled_before)
        query = struct_columns(task_runs, TaskRun.__struct_fields__).where(*conditions)
        queries = [query.where(_has_status(each, wanted, page.sort)) for each in wanted.status]
        # One page for each status, merged: asked for together, all that match would be sorted.
        found = [
            run_from(row)
            for each in queries or [query]
            for row in self._page(each, task_runs, page)
        ]
        if len(queries) > 1:
            name = page.sort.removeprefix("-")
            found.sort(key=lambda run: (getattr(run, name), run.id), reverse=page.sort[0] == "-")
        return _cut(found[: page.limit + 1], page, lambda run: _sort_value(run, run, page.sort))

    def list_flow_runs(self, wanted: FlowRunFilter, page: PageRequest) -> Page[FlowRun]:
        query = struct_columns(flow_runs, FlowRun.__struct_fields__)
        for name in FlowRunFilter.__struct_fields__:
            value = getattr(wanted, name)
            if value is not None:
                query = query.where(flow_runs.c[name] == value)
        found = [flow_run_from(row) for row in self._page(query, flow_runs, page)]
        return _cut(found, page, lambda each: each.id)

    def list_workers(self, wanted: WorkerFilter, page: PageRequest) -> Page[Worker]:
        query = struct_columns(workers, Worker.__struct_fields__)
        if wanted.status is not None:
            query = query.where(workers.c.status == wanted.status)
        found = [worker_from(row) for row in self._page(query, workers, page)]
        return _cut(found, page, lambda worker: worker.id)

    def list_versions(self, task_id: int, page: PageRequest) -> Page[TaskVersion]:
        query = (
            struct_columns(task_versions, TaskVersion.__struct_fields__)
            .where(task_versions.c.task_id == task_id)
            .order_by(task_versions.c.version.desc())
            .limit(page.limit + 1)
        )
        if page.after is not None:
            query = query.where(task_versions.c.version < page.after.value)
        found = [TaskVersion(*row) for row in self.fetch_once(query)]
        return _cut(found, page, lambda each: each.version, lambda each: each.version)

    def _page(self, query: Select[Any], table: Table, page: PageRequest) -> list[list[Any]]:
        name = page.sort.removeprefix("-")
        column, identity = table.c[name], table.c.id
        is_descending = page.sort.startswith("-")
        if page.after is not None:
            value = page.after.value
            if name == "scheduled_for":
                value = instant_of(value)
            beyond = column < value if is_descending else column > value
            further = identity < page.after.id if is_descending else identity > page.after.id
            query = query.where(
                beyond if name == "id" else or_(beyond, and_(column == value, further))
            )
        order = [column] if name == "id" else [column, identity]
        ordered = [each.desc() for each in order] if is_descending else order
        return self.fetch_once(query.order_by(*ordered).limit(page.limit + 1))

    def attempts(self, run_id: int) -> list[RunAttempt]:
        rows = self.fetch(_attempts, run_id=run_id) + self.fetch(_under_way, run_id=run_id)
        return [RunAttempt(*row) for row in rows]

    def run_events(self, run_id: int, after: int, limit: int) -> list[RunEvent]:
        rows = self.fetch(_events, run_id=run_id, after=after, limit=limit)
        return [RunEvent(*row) for row in rows]

    def run_logs(self, run_id: int, after: int, limit: int) -> list[LogLines]:
        return [
            LogLines(*row) for row in self.fetch(_logs, run_id=run_id, after=after, limit=limit)
        ]

    def events_after(
        self, position: EventPosition, namespace: str | None, limit: int
    ) -> list[StoredEvent]:
        rows = self.fetch(_all_events, after=position.id, namespace=namespace, limit=limit)
        return [StoredEvent(EventPosition(0, row[-1]), RunEvent(*row[:-1])) for row in rows]

    def last_event(self) -> EventPosition:
        return EventPosition(0, self.fetch(_last_event)[0][0] or 0)

    def ledger_counts(self, task_id: int, since: datetime, until: datetime) -> list[LedgerCount]:
        rows = self.fetch(_ledger_counts, task_id=task_id, since=since, until=until)
        return [LedgerCount(*row) for row in rows]

    def ledger_rows(
        self, task_id: int, since: datetime, until: datetime, limit: int
    ) -> list[TaskRun]:
        rows = self.fetch(_ledger_rows, task_id=task_id, since=since, until=until, limit=limit)
        return [run_from(row) for row in rows]

    def run_stats(
        self, since: datetime, task_id: int | None = None, worker_id: str | None = None
    ) -> list[RunStats]:
        query = (
            select(
                _ended_status, func.count(), func.avg(_seconds_taken), func.max(_runs.completed_at)
            )
            .where(text(HAS_ENDED), _runs.completed_at >= since)
            .group_by(_ended_status)
        )
        if task_id is not None:
            query = query.where(_runs.task_id == task_id)
        if worker_id is not None:
            query = query.where(_runs.worker_id == worker_id)
        prepared = self.fetch_once(query)
        return [RunStats(status, count, mean, latest) for status, count, mean, latest in prepared]

    def lane_depths(self) -> list[LaneDepth]:
        since = self.now - _RATE_WINDOW
        ready = {lane: rest for lane, *rest in self.fetch(_ready_lanes)}
        running = {lane: rest for lane, *rest in self.fetch(_running_lanes, since=since)}
        ended = dict(self.fetch(_lately_ended_lanes, since=since))
        depths = []
        for lane in sorted(ready.keys() | running.keys() | ended.keys()):
            waiting, oldest = ready.get(lane, (0, None))
            held, started = running.get(lane, (0, 0))
            depths.append(LaneDepth(lane, waiting, held, oldest, started + ended.get(lane, 0)))
        return depths

    def ready_before(self, run: TaskRun, limit: int) -> int:
        place = (_runs.rank, _runs.scheduled_for, _runs.id)
        own = (literal(getattr(run, column.name), column.type) for column in place)
        before = (
            select(_runs.id)
            .where(
                text(IS_READY),
                _runs.lane == run.lane,
                tuple_(*place) < tuple_(*own),
            )
            .limit(limit)
        )
        return len(self.fetch_once(before))

    def status_counts(self) -> dict[RunStatus, int]:
        return dict(self.fetch(_status_counts))


def _has_status(status: RunStatus, wanted: RunFilter, sort: str) -> ColumnElement[bool]:
    """Runs in this status; by its index, unless others are few or have them in order."""
    is_narrow = wanted.task_id or wanted.worker_id or wanted.flow_run_id
    if is_narrow or (status in FINAL and not sort.endswith("id")):
        return _runs.status == status
    return and_(_runs.status == status, text(HAS_ENDED if status in FINAL else IS_UNFINISHED))


def _cut(
    found: Sequence[T], page: PageRequest, value_of: Any, id_of: Any = lambda item: item.id
) -> Page[T]:
    """The query asked for one more than the page holds: it tells whether there is another."""
    items = list(found[: page.limit])
    if len(found) <= page.limit:
        return Page(items, None)
    return Page(items, Position(page.sort, value_of(items[-1]), id_of(items[-1])))


def _sort_value(item: Any, named: Any, sort: str) -> Any:
    match sort.removeprefix("-"):
        case "id":
            return item.id
        case "name":
            return named.name
        case "scheduled_for":
            return microseconds_of(item.scheduled_for)
    raise ValueError(sort)
