"""Runs, their attempts, events and output."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, exists, func, literal_column, not_, or_, select, text
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import ScalarSelect

from tidemill.domain.events import RunEvent
from tidemill.domain.overlap import UnfinishedRun
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import (
    AttemptOutcome,
    Hold,
    InLine,
    LeasedRun,
    ReadyRun,
    RunAttempt,
    RunChange,
    RunHead,
    Success,
    TaskRun,
    Trigger,
    created,
    dispatched,
    dispatched_before,
    ended_attempt,
    skipped,
    started,
    succeeded,
)
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import ConcurrentChange
from tidemill.foundation.store import LogLines
from tidemill.infrastructure.database.prepared import Later, in_array, struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import (
    HAS_DEADLINE,
    HAS_QUEUE_DEADLINE,
    HAS_SUCCEEDED,
    HOLDS_KEY,
    IS_DISPATCHED,
    IS_HELD_FOR_LIMIT,
    IS_HELD_FOR_TASK,
    IS_HELD_FOR_TIME,
    IS_LEASED,
    IS_NOT_LEASED,
    IS_READY,
    IS_RUNNING,
    IS_UNFINISHED,
    artifact_chunks,
    artifacts,
    carried_runs,
    flow_runs,
    once_found,
    run_attempts,
    run_edges,
    run_events,
    run_logs,
    task_runs,
    tasks,
    workers,
)

_FIELDS = TaskRun.__struct_fields__
_UNNUMBERED = _FIELDS[1:]  # without the id, which the database gives
_HEAD = RunHead.__struct_fields__
_LEASED = LeasedRun.__struct_fields__
_runs = task_runs.c

_run = struct_columns(task_runs, _FIELDS)
_locked = _run.with_for_update()
_free = _run.with_for_update(skip_locked=True)  # what nobody else sees to already
_head = struct_columns(task_runs, _HEAD).with_for_update()
_by_id = _run.where(_runs.id == bindparam("run_id"))
_by_id_in_namespace = _by_id.where(_runs.namespace == bindparam("namespace"))
# In one order, so that no two transactions wait for one another.
_by_ids = _locked.where(in_array(_runs.id, "ids")).order_by(_runs.id)
_heads_by_ids = _head.where(in_array(_runs.id, "ids")).order_by(_runs.id)
_by_ids_in_namespace = _by_ids.where(_runs.namespace == bindparam("namespace"))
_GUARD = ("id", "status", "fence", "event_seq")  # what a change must find as it was
_FIRING = ("task_id", "trigger_key", "scheduled_for")  # what makes a run one of a kind
_is_bound = or_(
    _runs.concurrency_key.is_not(None),
    _runs.deadline_at.is_not(None),
    _runs.queue_deadline_at.is_not(None),
)
_bound = _by_ids.where(text(once_found(IS_DISPATCHED)), _is_bound)
_claim = (
    task_runs.update()
    .where(in_array(_runs.id, "ids"), text(once_found(IS_DISPATCHED)))
    .values(
        status=RunStatus.RUNNING,
        attempt=_runs.attempt + 1,
        fence=_runs.fence + 1,
        event_seq=_runs.event_seq + 1,
        worker_id=bindparam("holder"),
        lease_expires_at=bindparam("lease_until", type_=_runs.lease_expires_at.type),
        started_at=Later(bindparam("now", type_=_runs.started_at.type), _runs.dispatched_at),
        reason=None,
        error_message=None,
        exit_code=None,
    )
    .returning(*(_runs[name] for name in _LEASED))
)
_claim_unbound = _claim.where(not_(_is_bound))
_in_time_in_lane = (
    text(IS_READY),
    _runs.lane == bindparam("lane"),
    or_(_runs.deadline_at.is_(None), _runs.deadline_at > bindparam("now")),
    or_(_runs.queue_deadline_at.is_(None), _runs.queue_deadline_at > bindparam("now")),
)
_in_order = (_runs.rank, _runs.scheduled_for, _runs.id)
_first_in_line = (
    select(*_in_order, _runs.concurrency_key.is_not(None))
    .where(*_in_time_in_lane)
    .order_by(*_in_order)
    .limit(bindparam("limit"))
)
_first_ready = (
    select(_runs.id)
    .where(*_in_time_in_lane, _runs.concurrency_key.is_(None))
    .order_by(*_in_order)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_claim_ready = (
    task_runs.update()
    .where(
        _runs.id.in_(_first_ready.scalar_subquery()),
        select(workers.c.id)
        .where(workers.c.id == bindparam("holder"), workers.c.status == WorkerStatus.ACTIVE)
        .exists(),
    )
    .values(
        status=RunStatus.RUNNING,
        attempt=_runs.attempt + 1,
        fence=_runs.fence + 1,
        event_seq=_runs.event_seq + 2,
        worker_id=bindparam("holder"),
        lease_expires_at=bindparam("lease_until", type_=_runs.lease_expires_at.type),
        dispatched_at=Later(bindparam("now", type_=_runs.started_at.type), _runs.created_at),
        started_at=Later(bindparam("now", type_=_runs.started_at.type), _runs.created_at),
        reason=None,
        error_message=None,
        exit_code=None,
    )
    .returning(*(_runs[name] for name in _LEASED))
)
_held = task_runs.alias("held")
_is_waited_for = (
    select(_held.c.id)
    .where(text(f"held.{IS_HELD_FOR_TASK}"), _held.c.task_id == literal_column("task_runs.task_id"))
    .exists()
)
_SUCCEEDS = (
    "status = 'succeeded', event_seq = event_seq + 1, reason = NULL, error_message = NULL,"
    " lease_expires_at = NULL"
)


def _meets_firings(runs: Any) -> tuple[ColumnElement[bool], ...]:
    """Neither backfills, nor what waits for others, for the turn of its flow run, or was asked for
    at an hour still to come."""
    is_wish_for_later = and_(
        runs.status == RunStatus.PENDING,
        runs.hold.is_not(None),
        runs.hold == Hold.TIME,
        runs.trigger != Trigger.SCHEDULE,
    )
    return (
        runs.trigger != Trigger.BACKFILL,
        runs.status != RunStatus.WAITING,
        or_(runs.hold.is_(None), runs.hold != Hold.TURN),
        not_(is_wish_for_later),
    )


_unfinished = (
    select(_runs.id, _runs.task_id, _runs.status, _runs.hold)
    .where(
        text(IS_UNFINISHED),
        in_array(_runs.task_id, "ids"),
        *_meets_firings(_runs),
    )
    .order_by(_runs.id)
)
_earlier = task_runs.alias("earlier")
_to_begin = _by_ids.add_columns(
    exists(_earlier.c.id)
    .where(
        text(IS_UNFINISHED),
        _earlier.c.task_id == _runs.task_id,
        *_meets_firings(_earlier.c),
        not_(in_array(_earlier.c.id, "beside")),
    )
    .correlate(task_runs)
).where(or_(_runs.status == RunStatus.WAITING, _runs.hold == Hold.TURN))
_of_tasks = _locked.where(
    text(IS_UNFINISHED), in_array(_runs.task_id, "ids"), in_array(_runs.status, "statuses")
)
_due_holds = (
    _free.where(text(IS_HELD_FOR_TIME), _runs.not_before <= bindparam("now"))
    .order_by(_runs.not_before)
    .limit(bindparam("limit"))
)
_next_hold = select(func.min(_runs.not_before)).where(text(IS_HELD_FOR_TIME))
# One probe of the index per lane, however many runs are ready: the smallest lane, then the next.
_lanes = text(
    f"WITH RECURSIVE lanes(lane) AS ("
    f" SELECT * FROM (SELECT lane FROM task_runs WHERE {IS_READY} ORDER BY lane LIMIT 1) AS first"
    f" UNION ALL SELECT (SELECT r.lane FROM task_runs r"
    f" WHERE {IS_READY} AND r.lane > lanes.lane ORDER BY r.lane LIMIT 1)"
    f" FROM lanes WHERE lanes.lane IS NOT NULL)"
    f" SELECT lane, (SELECT count(*) FROM task_runs d"
    f" WHERE d.{IS_DISPATCHED} AND d.lane = lanes.lane) FROM lanes WHERE lane IS NOT NULL"
)
_ready = (
    struct_columns(task_runs, ReadyRun.__struct_fields__)
    .where(text(IS_READY), _runs.lane == bindparam("lane"))
    .order_by(*_in_order)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_dispatch = (
    task_runs.update()
    .where(in_array(_runs.id, "ids"), text(once_found(IS_READY)))
    .values(
        status=RunStatus.DISPATCHED,
        dispatched_at=bindparam("now", type_=_runs.dispatched_at.type),
        event_seq=_runs.event_seq + 1,
    )
)
_any_ready = (
    select(_runs.lane)
    .where(text(IS_READY), in_array(_runs.lane, "lanes"))
    .order_by(_runs.lane, _runs.rank)
    .limit(1)
)
_key_holders = (
    select(_runs.concurrency_key, func.count())
    .where(text(HOLDS_KEY), in_array(_runs.concurrency_key, "keys"))
    .group_by(_runs.concurrency_key)
)
_key_runners = _key_holders.where(_runs.status != RunStatus.DISPATCHED)
_held_for_tasks = _locked.where(text(IS_HELD_FOR_TASK), in_array(_runs.task_id, "ids")).order_by(
    _runs.scheduled_for, _runs.id
)
_others = task_runs.alias("others")
_waited_in_vain = (
    select(_runs.task_id)
    .where(
        text(IS_HELD_FOR_TASK),
        not_(
            select(_others.c.id)
            .where(
                _others.c.completed_at.is_(None),
                _others.c.task_id == _runs.task_id,
                text("coalesce(others.hold, '') NOT IN ('overlap', 'catch_up')"),
                *_meets_firings(_others.c),
            )
            .exists()
        ),
    )
    .distinct()
)
_waited_in_vain_among = _waited_in_vain.where(in_array(_runs.task_id, "ids"))
_held_for_key = (
    _locked.where(text(IS_HELD_FOR_LIMIT), _runs.concurrency_key == bindparam("key"))
    .order_by(_runs.rank, _runs.id)
    .limit(bindparam("limit"))
)
_held_keys = (
    select(_runs.concurrency_key, func.max(_runs.concurrency_limit))
    .where(text(IS_HELD_FOR_LIMIT))
    .group_by(_runs.concurrency_key)
)
_success = task_runs.alias("success")


def latest_success(task_id: ColumnElement[int]) -> ScalarSelect[datetime]:
    """When the latest successful run of that task completed.

    One probe of the index: an aggregate would walk through all that ever succeeded.
    """
    return (
        select(_success.c.completed_at)
        .where(text(f"success.{HAS_SUCCEEDED}"), _success.c.task_id == task_id)
        .order_by(_success.c.completed_at.desc())
        .limit(1)
        .correlate_except(_success)
        .scalar_subquery()
    )


_previous_success = select(tasks.c.id, latest_success(tasks.c.id)).where(
    in_array(tasks.c.id, "ids")
)
_expired = (
    _free.where(text(IS_LEASED), _runs.lease_expires_at <= bindparam("now"))
    .order_by(_runs.lease_expires_at)
    .limit(bindparam("limit"))
)
_date = (
    task_runs.update()
    .where(text(IS_LEASED), _runs.lease_expires_at > bindparam("after"))
    .values(lease_expires_at=bindparam("until"))
)
# By the index of what is leased: that of the workers holds all that they ever ran.
_held_by = _locked.where(text(IS_LEASED), in_array(func.coalesce(_runs.worker_id, ""), "workers"))
_overdue = _free.where(
    text(HAS_DEADLINE), text(IS_NOT_LEASED), _runs.deadline_at <= bindparam("now")
).limit(bindparam("limit"))
_overdue_in_queue = _free.where(
    text(HAS_QUEUE_DEADLINE), text(IS_NOT_LEASED), _runs.queue_deadline_at <= bindparam("now")
).limit(bindparam("limit"))
_stuck = _free.where(text(IS_DISPATCHED), _runs.dispatched_at <= bindparam("before")).limit(
    bindparam("limit")
)
_held_statuses = select(_runs.id, _runs.fence, _runs.status).where(
    text(once_found(IS_LEASED)), in_array(_runs.id, "ids"), _runs.worker_id == bindparam("holder")
)
_last_log_seqs = (
    select(run_logs.c.run_id, func.max(run_logs.c.last_seq))
    .where(in_array(run_logs.c.run_id, "ids"))
    .group_by(run_logs.c.run_id)
)
_prunable = (
    select(_runs.id)
    .where(
        _runs.completed_at <= bindparam("before"),
        not_(select(carried_runs.c.run_id).where(carried_runs.c.run_id == _runs.id).exists()),
        # What it returned is still to be told to whoever called.
        not_(
            select(flow_runs.c.id)
            .where(
                flow_runs.c.id == _runs.flow_run_id,
                flow_runs.c.called_by.is_not(None),
                flow_runs.c.completed_at.is_(None),
            )
            .exists()
        ),
    )
    .order_by(_runs.completed_at)
    .limit(bindparam("limit"))
)
_is_prunable_flow_run = and_(
    flow_runs.c.completed_at <= bindparam("before"),
    not_(select(_runs.id).where(_runs.flow_run_id == flow_runs.c.id).exists()),
)
_prune_carried_runs = carried_runs.delete().where(
    carried_runs.c.flow_run_id.in_(select(flow_runs.c.id).where(_is_prunable_flow_run))
)
_prune_flow_runs = flow_runs.delete().where(_is_prunable_flow_run)
_prune_statements = [
    table.delete().where(in_array(column, "ids"))
    for table, column in (
        (artifact_chunks, artifact_chunks.c.run_id),
        (artifacts, artifacts.c.run_id),
        (run_logs, run_logs.c.run_id),
        (run_events, run_events.c.run_id),
        (run_attempts, run_attempts.c.run_id),
        (run_edges, run_edges.c.downstream_run_id),
        (task_runs, task_runs.c.id),
    )
]


class RunRows(Rows):
    """The part of a transaction that reads and writes runs."""

    def run(self, run_id: int, namespace: str | None = None) -> TaskRun | None:
        if namespace is None:
            rows = self.fetch(_by_id, run_id=run_id)
        else:
            rows = self.fetch(_by_id_in_namespace, run_id=run_id, namespace=namespace)
        return run_from(rows[0]) if rows else None

    def runs(self, run_ids: Collection[int], namespace: str | None = None) -> dict[int, TaskRun]:
        if namespace is None:
            rows = self.fetch(_by_ids, ids=run_ids)
        else:
            rows = self.fetch(_by_ids_in_namespace, ids=run_ids, namespace=namespace)
        return {row[0]: run_from(row) for row in rows}

    def run_heads(self, run_ids: Collection[int]) -> dict[int, RunHead]:
        return {row[0]: head_from(row) for row in self.fetch(_heads_by_ids, ids=run_ids)}

    def insert_runs(self, runs: Sequence[TaskRun]) -> list[TaskRun]:
        if not runs:
            return []
        statement = self.cache.insert(task_runs, _UNNUMBERED, _FIRING, ("id", *_FIRING))
        begun = [msgspec.structs.replace(run, event_seq=1) for run in runs]
        told = self.write_and_tell(statement, (msgspec.structs.astuple(run)[1:] for run in begun))
        ids = {tuple(firing): run_id for run_id, *firing in told}
        new = [
            msgspec.structs.replace(run, id=run_id)
            for run in begun
            if (run_id := ids.pop((run.task_id, run.trigger_key, run.scheduled_for), None))
        ]
        self.append_events([_first_event(run) for run in new])
        return new

    def bound_runs(self, run_ids: Collection[int]) -> list[TaskRun]:
        return _all(self.fetch(_bound, ids=run_ids))

    def claim(
        self, run_ids: Collection[int], worker_id: str, until: datetime | None
    ) -> list[LeasedRun]:
        return self._claim(_claim, run_ids, worker_id, until)

    def claim_unbound(
        self, run_ids: Collection[int], worker_id: str, until: datetime
    ) -> list[LeasedRun]:
        return self._claim(_claim_unbound, run_ids, worker_id, until)

    def _claim(
        self, statement: Update, run_ids: Collection[int], worker_id: str, until: datetime | None
    ) -> list[LeasedRun]:
        rows = self.fetch(statement, ids=run_ids, holder=worker_id, lease_until=until, now=self.now)
        claimed = [leased_from(row) for row in rows]
        self.append_events([started(run, self.now) for run in claimed])
        return claimed

    def first_in_line(self, lane: str, limit: int) -> list[InLine]:
        rows = self.fetch(_first_in_line, lane=lane, now=self.now, limit=limit)
        return [InLine(*row) for row in rows]

    def claim_ready(
        self, lane: str, worker_id: str, until: datetime, at_most: int
    ) -> list[LeasedRun]:
        rows = self.fetch(
            _claim_ready,
            lane=lane,
            holder=worker_id,
            lease_until=until,
            now=self.now,
            limit=at_most,
        )
        claimed = [leased_from(row) for row in rows]
        self.readied[lane] = max(self.readied[lane] - len(claimed), 0)
        self.append_events(
            [event(run, self.now) for run in claimed for event in (dispatched_before, started)]
        )
        return claimed

    def record_successes(self, successes: Sequence[Success]) -> tuple[list[RunHead], set[int]]:
        statement = self.cache.update(
            task_runs,
            ("id", "fence"),
            ("result", "exit_code", "log_seq", "completed_at"),
            once_found(IS_RUNNING),
            _SUCCEEDS,
            _HEAD,
            beside=(_is_waited_for,),
        )
        by_run = {success.run_id: success for success in successes}
        rows = self.write_and_tell(
            statement, ((*msgspec.structs.astuple(each), self.now) for each in successes)
        )
        ended = [head_from(row[:-1]) for row in rows]
        self.close_attempts(
            [
                ended_attempt(run, AttemptOutcome.SUCCEEDED, self.now, by_run[run.id].exit_code)
                for run in ended
            ]
        )
        self.append_events([succeeded(run, by_run[run.id], self.now) for run in ended])
        return ended, {run.task_id for run, row in zip(ended, rows, strict=True) if row[-1]}

    def change_runs(self, changes: Sequence[RunChange]) -> None:
        by_columns: dict[tuple[str, ...], list[list[Any]]] = {}
        for change in changes:
            before, columns = change.before, tuple(sorted(change.changes))
            guard = [before.id, before.status, before.fence, before.event_seq]
            row = guard + [change.changes[name] for name in columns]
            by_columns.setdefault(columns, []).append(row)
        for columns, rows in by_columns.items():
            if self.update_rows(task_runs, _GUARD, columns, rows) != len(rows):
                raise ConcurrentChange("a run moved while it was being changed")
        self.append_events([change.event for change in changes])

    def runs_to_begin(
        self, run_ids: Collection[int], beside: Collection[int]
    ) -> tuple[list[TaskRun], set[int]]:
        rows = self.fetch(_to_begin, ids=run_ids, beside=beside)
        runs = [run_from(row[:-1]) for row in rows]
        return runs, {run.task_id for run, row in zip(runs, rows, strict=True) if row[-1]}

    def unfinished_runs(self, task_ids: Collection[int]) -> list[UnfinishedRun]:
        return [UnfinishedRun(*row) for row in self.fetch(_unfinished, ids=task_ids)]

    def runs_of_tasks(
        self, task_ids: Collection[int], statuses: Collection[RunStatus]
    ) -> list[TaskRun]:
        return _all(self.fetch(_of_tasks, ids=task_ids, statuses=[s.value for s in statuses]))

    def due_holds(self, limit: int) -> list[TaskRun]:
        return _all(self.fetch(_due_holds, now=self.now, limit=limit))

    def next_hold_ends_at(self) -> datetime | None:
        found: datetime | None = self.fetch(_next_hold)[0][0]
        return found

    def ready_lanes(self) -> dict[str, int]:
        return dict(self.fetch(_lanes))

    def has_ready_runs(self, lanes: Collection[str]) -> bool:
        return bool(self.fetch(_any_ready, lanes=lanes))

    def ready_runs(self, lane: str, limit: int) -> list[ReadyRun]:
        return [ReadyRun(*row) for row in self.fetch(_ready, lane=lane, limit=limit)]

    def dispatch(self, runs: Sequence[ReadyRun | RunHead]) -> None:
        if self.execute(_dispatch, ids=[run.id for run in runs], now=self.now) != len(runs):
            raise ConcurrentChange("a run moved while it was being dispatched")
        self.append_events([dispatched(run, self.now) for run in runs])

    def key_holders(self, keys: Collection[str]) -> dict[str, int]:
        return dict(self.fetch(_key_holders, keys=keys)) if keys else {}

    def key_runners(self, keys: Collection[str]) -> dict[str, int]:
        return dict(self.fetch(_key_runners, keys=keys)) if keys else {}

    def held_for_tasks(self, task_ids: Collection[int]) -> list[TaskRun]:
        return _all(self.fetch(_held_for_tasks, ids=task_ids))

    def tasks_waited_for_in_vain(self, task_ids: Collection[int] | None = None) -> list[int]:
        if task_ids is None:
            return [row[0] for row in self.fetch(_waited_in_vain)]
        return [row[0] for row in self.fetch(_waited_in_vain_among, ids=task_ids)]

    def held_for_keys(self, room: Mapping[str, int]) -> list[TaskRun]:
        found: list[TaskRun] = []
        for key, limit in room.items():
            found += _all(self.fetch(_held_for_key, key=key, limit=limit))
        return found

    def held_keys(self) -> dict[str, int]:
        return dict(self.fetch(_held_keys))

    def previous_successes(self, task_ids: Collection[int]) -> dict[int, datetime]:
        rows = self.fetch(_previous_success, ids=task_ids)
        return {task_id: at for task_id, at in rows if at is not None}

    def expired_leases(self, limit: int) -> list[TaskRun]:
        return _all(self.fetch(_expired, now=self.now, limit=limit))

    def date_leases(self, after: datetime, until: datetime) -> None:
        self.execute(_date, after=after, until=until)

    def runs_held_by(self, worker_ids: Collection[str]) -> list[TaskRun]:
        return _all(self.fetch(_held_by, workers=worker_ids))

    def overdue_runs(self, limit: int) -> list[TaskRun]:
        rows = self.fetch(_overdue, now=self.now, limit=limit)
        rows += self.fetch(_overdue_in_queue, now=self.now, limit=limit)
        return list({row[0]: run_from(row) for row in rows}.values())

    def stuck_dispatches(self, before: datetime, limit: int) -> list[TaskRun]:
        return _all(self.fetch(_stuck, before=before, limit=limit))

    def close_attempts(self, ended: Sequence[RunAttempt]) -> None:
        self.insert_last(
            run_attempts,
            RunAttempt.__struct_fields__,
            map(msgspec.structs.astuple, ended),
            unless_taken=("run_id", "attempt"),
        )

    def renew_leases(
        self, worker_id: str, fences: Mapping[int, int], until: datetime
    ) -> dict[int, RunStatus]:
        self.update_rows(
            task_runs,
            ("id", "fence", "worker_id"),
            ("lease_expires_at",),
            ((run_id, fence, worker_id, until) for run_id, fence in fences.items()),
            where=once_found(IS_LEASED),
        )
        rows = self.fetch(_held_statuses, ids=fences, holder=worker_id)
        return {run_id: status for run_id, fence, status in rows if fences[run_id] == fence}

    def append_logs(self, lines: Sequence[LogLines]) -> None:
        self.insert_rows(
            run_logs,
            LogLines.__struct_fields__,
            map(msgspec.structs.astuple, lines),
            unless_taken=("run_id", "first_seq"),
        )

    def last_log_seqs(self, run_ids: Collection[int]) -> dict[int, int]:
        return dict(self.fetch(_last_log_seqs, ids=run_ids))

    def note_progress(self, run_id: int, **columns: Any) -> None:
        names = tuple(sorted(columns))
        statement = (
            task_runs.update()
            .where(_runs.id == bindparam("run_id"))
            .values({name: bindparam(name, type_=_runs[name].type) for name in names})
        )
        prepared = self.cache.shaped(("note", names), statement)
        assert prepared is not None
        self.connection.execute(prepared.sql, prepared.bind(columns | {"run_id": run_id}))

    def prune(self, completed_before: datetime, limit: int) -> int:
        ids = [row[0] for row in self.fetch(_prunable, before=completed_before, limit=limit)]
        if ids:
            for statement in _prune_statements:
                self.execute(statement, ids=ids)
            self.execute(_prune_carried_runs, before=completed_before)
            self.execute(_prune_flow_runs, before=completed_before)
        return len(ids)


def head_from(row: Sequence[Any]) -> RunHead:
    """A row of the columns that `RunHead` names."""
    return RunHead(*row)


def leased_from(row: Sequence[Any]) -> LeasedRun:
    """A row of the columns that `LeasedRun` names."""
    return LeasedRun(*row)


def run_from(row: Sequence[Any]) -> TaskRun:
    """A row of the columns that `TaskRun` names."""
    return TaskRun(*row)


def _all(rows: list[list[Any]]) -> list[TaskRun]:
    return [run_from(row) for row in rows]


def _first_event(run: TaskRun) -> RunEvent:
    if run.status is RunStatus.SKIPPED:
        return skipped(run.id, run.namespace, run.created_at, run.trigger, run.reason)
    return created(run.id, run.namespace, run.created_at, run.trigger, run.status)
