"""Flow runs: which run waits for which, and what that came to."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
)

from tidemill.domain.calls import LastRun
from tidemill.domain.dependency import Edge, Tally
from tidemill.domain.flow_run import FlowRun, Member
from tidemill.domain.mapping import Source
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Hold, RunHead, Shard, TaskRun, Trigger
from tidemill.foundation.store import PlaceInFlow, RunEnd, TaskEdge, UpstreamEnd, WaitingRun
from tidemill.infrastructure.database.prepared import in_array, struct_columns
from tidemill.infrastructure.database.rows import Connection, Rows, StatementCache
from tidemill.infrastructure.database.run_rows import head_from, latest_success, run_from
from tidemill.infrastructure.database.tables import (
    AWAITS_TURN,
    HAS_DEADLINE,
    IS_LEASED,
    IS_NOT_LEASED,
    IS_OUTSIDE,
    IS_UNDER_WAY,
    backfills,
    carried_runs,
    flow_runs,
    run_edges,
    run_tallies,
    task_dependencies,
    task_runs,
    tasks,
)

Beside = Callable[[FromClause, Table, Sequence[Any], ColumnElement[bool]], Select[Any]]

_FLOW = FlowRun.__struct_fields__
_EDGE = Edge.__struct_fields__
_TALLY = Tally.__struct_fields__
_of_its_tally = tuple(
    select(run_tallies.c[name])
    .where(run_tallies.c.run_id == literal_column("run_edges.downstream_run_id"))
    .scalar_subquery()
    for name in _TALLY
)
_edges = run_edges.c


def joined(
    reached: FromClause, table: Table, columns: Sequence[Any], on: ColumnElement[bool]
) -> Select[Any]:
    """These columns of the rows of `table` that belong to each that was reached."""
    return select(*columns).join_from(reached, table, on)


class Reaching:
    """The statements that follow edges; `beside` is `joined` as an engine does it by an index."""

    def __init__(self, beside: Beside) -> None:
        self.task_edges = _task_edges_below(beside)
        self.open_edges = _open_edges_below(beside)


def _task_edges_below(beside: Beside) -> Select[Any]:
    table, edges = task_dependencies, task_dependencies.c
    reached = select(tasks.c.id).where(in_array(tasks.c.id, "ids")).cte("reached", recursive=True)
    is_below = edges.upstream_task_id == reached.c.id
    reached = reached.union(beside(reached, table, [edges.task_id], is_below))
    columns = [edges.task_id, edges.upstream_task_id, edges.condition]
    return beside(reached, table, columns, edges.task_id == reached.c.id)


def _open_edges_below(beside: Beside) -> Select[Any]:
    runs = select(task_runs.c.id).where(in_array(task_runs.c.id, "ids"))
    reached = runs.cte("reached", recursive=True)
    leads_on = and_(_edges.upstream_run_id == reached.c.id, _edges.ended_as.is_(None))
    reached = reached.union(beside(reached, run_edges, [_edges.downstream_run_id], leads_on))
    leads_on = and_(_edges.upstream_run_id == reached.c.id, _edges.ended_as.is_(None))
    return beside(reached, run_edges, [_edges[name] for name in _EDGE], leads_on)


_flow_runs = (
    struct_columns(flow_runs, _FLOW)
    .where(in_array(flow_runs.c.id, "ids"))
    .order_by(flow_runs.c.id)  # so that no two transactions wait for one another
    .with_for_update()
)
_flow_run = struct_columns(flow_runs, _FLOW).where(flow_runs.c.id == bindparam("flow_run_id"))
_flow_run_in_namespace = _flow_run.where(flow_runs.c.namespace == bindparam("namespace"))
_member = struct_columns(task_runs, Member.__struct_fields__)
_members = (
    _member.where(
        task_runs.c.flow_run_id == bindparam("flow_run_id"), task_runs.c.id > bindparam("after")
    )
    .order_by(task_runs.c.id)
    .limit(bindparam("limit"))
)
_members_by_id = _member.where(in_array(task_runs.c.id, "ids"))
_started_at = select(func.min(task_runs.c.started_at)).where(
    task_runs.c.flow_run_id == bindparam("flow_run_id")
)
_took_time = and_(task_runs.c.completed_at.is_not(None), task_runs.c.started_at.is_not(None))
_is_own = task_runs.c.flow_run_id == bindparam("flow_run_id")
_last_member = (
    select(task_runs.c.id)
    .where(_is_own, _took_time)
    .order_by(task_runs.c.completed_at.desc(), task_runs.c.id)
    .limit(1)
    .subquery("last_member")
)
_path = select(_last_member.c.id, literal_column("0").label("place")).cte("path", recursive=True)
_later_run = task_runs.alias("later_run")
_whole = (
    select(_later_run.c.part_of)
    .where(_later_run.c.id == _path.c.id)
    .correlate(_path)
    .scalar_subquery()
)
_last_upstream = (
    select(task_runs.c.id)
    .join(run_edges, _edges.upstream_run_id == task_runs.c.id)
    # What a run became waited for what the run did; in a flow run that retries it, for itself.
    .where(
        _edges.downstream_run_id.in_([_path.c.id, _whole]),
        _edges.flow_run_id == bindparam("flow_run_id"),
        # Not by an index: at each step of a chain it would lead through all of the flow run.
        func.coalesce(task_runs.c.flow_run_id, "") == bindparam("flow_run_id"),
        _took_time,
    )
    .order_by(task_runs.c.completed_at.desc(), task_runs.c.id)
    .limit(1)
    .correlate(_path)
    .scalar_subquery()
)
_path = _path.union_all(select(_last_upstream, _path.c.place + 1).where(_path.c.id.is_not(None)))
_critical_path = select(_path.c.id).where(_path.c.id.is_not(None)).order_by(_path.c.place.desc())
_upstream_counts = (
    select(_edges.downstream_run_id, func.count())
    .where(in_array(_edges.downstream_run_id, "ids"))
    .group_by(_edges.downstream_run_id)
)
_unfinished_members = (
    select(task_runs.c.id)
    .where(in_array(task_runs.c.flow_run_id, "ids"), task_runs.c.completed_at.is_(None))
    .order_by(task_runs.c.id)
)
_carried_runs = (
    _member.join(carried_runs, carried_runs.c.run_id == task_runs.c.id)
    .where(
        carried_runs.c.flow_run_id == bindparam("flow_run_id"),
        carried_runs.c.run_id > bindparam("after"),
    )
    .order_by(carried_runs.c.run_id)
    .limit(bindparam("limit"))
)
_edges_into = struct_columns(run_edges, _EDGE).where(in_array(_edges.downstream_run_id, "ids"))
_tallies = struct_columns(run_tallies, _TALLY).where(in_array(run_tallies.c.run_id, "ids"))

_later = task_runs.alias("later")
_part = task_runs.alias("part")
_is_open_still = (
    select(_part.c.id)
    .where(
        _part.c.part_of == _later.c.part_of,
        _part.c.trigger != Trigger.RETRY,
        _part.c.completed_at.is_(None),
    )
    .correlate(_later)
    .exists()
)
_outside = (
    struct_columns(run_edges, _EDGE)
    .add_columns(task_runs.c.id, task_runs.c.status)
    .join(flow_runs, flow_runs.c.id == _edges.flow_run_id)
    .join(
        task_runs,
        and_(
            task_runs.c.id
            == select(func.coalesce(_later.c.part_of, _later.c.id))
            .where(
                _later.c.task_id == _edges.upstream_task_id,
                _later.c.scheduled_for >= flow_runs.c.scheduled_for,
                _later.c.completed_at.is_not(None),
                # A part that was tried again is not the whole.
                or_(_later.c.part_of.is_(None), _later.c.trigger != Trigger.RETRY),
                not_(_is_open_still),
            )
            .order_by(_later.c.scheduled_for.desc(), _later.c.id.desc())
            .limit(1)
            .correlate(run_edges, flow_runs)
            .scalar_subquery(),
        ),
    )
    .where(text(IS_OUTSIDE))
    .limit(bindparam("limit"))
)

_open_edges_from = struct_columns(run_edges, _EDGE).where(
    in_array(_edges.upstream_run_id, "ids"), _edges.ended_as.is_(None)
)
_further_parts = select(_part.c.part_of, _part.c.id, _part.c.status).where(
    in_array(_part.c.part_of, "ids"),
    _part.c.part_of != _part.c.id,
    _part.c.trigger != Trigger.RETRY,
)
_from_outside = struct_columns(run_edges, _EDGE).where(
    text(IS_OUTSIDE), in_array(_edges.upstream_task_id, "ids")
)

_runs = task_runs.c
_downstream = task_runs.alias("downstream")
_ended_as = case(
    (
        and_(_runs.status == RunStatus.SKIPPED, _runs.reason == "expression"),
        literal(RunStatus.FAILED, _runs.status.type),
    ),
    else_=_runs.status,
)
_unhandled = (
    select(_runs.flow_run_id, _ended_as, func.count())
    .where(
        in_array(_runs.flow_run_id, "ids"),
        not_(
            select(_edges.downstream_run_id)
            .join(_downstream, _downstream.c.id == _edges.downstream_run_id)
            .where(
                _edges.upstream_run_id == _runs.id,
                _downstream.c.status != RunStatus.SKIPPED,
            )
            .correlate(task_runs)
            .exists()
        ),
    )
    .group_by(_runs.flow_run_id, _ended_as)
)
_upstream_results = (
    select(
        _downstream.c.id,
        _downstream.c.shard_index,
        _downstream.c.shard_total,
        latest_success(_downstream.c.task_id),
        _runs.task_name,
        _runs.status,
        _runs.part_of,
        _runs.shard_total,
        _runs.result,
    )
    .select_from(_downstream)
    # What a run became waited for what the run did; in a flow run that retries it, for itself.
    .outerjoin(
        run_edges,
        and_(
            _edges.downstream_run_id.in_([_downstream.c.id, _downstream.c.part_of]),
            _edges.flow_run_id == _downstream.c.flow_run_id,
        ),
    )
    .outerjoin(task_runs, _runs.id == _edges.upstream_run_id)
    .where(in_array(_downstream.c.id, "ids"))
    .order_by(_downstream.c.id, _edges.part)
)
_map_sources = _upstream_results.where(_edges.is_mapped_over.is_(True))
_sibling = task_runs.alias("sibling")
_items_not_started = (
    struct_columns(task_runs, TaskRun.__struct_fields__)
    .where(
        _runs.part_of.in_(
            select(_sibling.c.part_of).where(
                in_array(_sibling.c.id, "ids"), _sibling.c.part_of.is_not(None)
            )
        ),
        _runs.flow_run_id.is_not(None),
        or_(_runs.status == RunStatus.PENDING, _runs.status == RunStatus.DISPATCHED),
        _runs.attempt == 0,
    )
    .order_by(_runs.id)
    .with_for_update()
)

_upstream_ends = (
    select(
        _edges.downstream_run_id,
        _edges.upstream_run_id,
        func.coalesce(_runs.task_name, tasks.c.name),
        func.coalesce(_edges.ended_as, _runs.status, type_=_edges.ended_as.type),
        _runs.reason,
        _runs.part_of.is_not(None),
        func.coalesce(func.length(cast(_runs.result, Text)), 0),
    )
    .select_from(run_edges)
    .outerjoin(task_runs, _runs.id == _edges.upstream_run_id)
    .join(tasks, tasks.c.id == _edges.upstream_task_id)
    .where(in_array(_edges.downstream_run_id, "ids"))
    .order_by(_edges.downstream_run_id, _edges.part)
)
_results = select(_runs.id, _runs.result).where(in_array(_runs.id, "ids"))
_waiting_runs = struct_columns(task_runs, WaitingRun.__struct_fields__).where(
    in_array(_runs.id, "ids")
)


_is_idle = and_(_runs.completed_at.is_(None), text(IS_NOT_LEASED))
_overdue = (
    select(flow_runs.c.id)
    .where(
        text(HAS_DEADLINE),
        flow_runs.c.deadline_at <= bindparam("now"),
        select(_runs.id).where(_runs.flow_run_id == flow_runs.c.id, _is_idle).exists(),
    )
    .order_by(flow_runs.c.deadline_at)
    .limit(bindparam("limit"))
)
_idle = (
    struct_columns(task_runs, RunHead.__struct_fields__)
    .where(in_array(_runs.flow_run_id, "ids"), _is_idle)
    .order_by(_runs.id)
    .with_for_update()
)
_without_turn = (
    select(_runs.id)
    .where(in_array(_runs.flow_run_id, "ids"), _runs.hold == Hold.TURN)
    .order_by(_runs.id)
)

_open_calls = (
    select(flow_runs.c.id)
    .where(in_array(flow_runs.c.called_by, "ids"), flow_runs.c.completed_at.is_(None))
    .order_by(flow_runs.c.id)
)
_callers_of = (
    select(flow_runs.c.id.label("called"), _runs.task_id, _runs.flow_run_id)
    .join(task_runs, _runs.id == flow_runs.c.called_by)
    .where(in_array(flow_runs.c.id, "ids"))
    .cte("reached", recursive=True)
)
_callers_of = _callers_of.union(
    select(_callers_of.c.called, _runs.task_id, _runs.flow_run_id)
    .join(flow_runs, flow_runs.c.id == _callers_of.c.flow_run_id)
    .join(task_runs, _runs.id == flow_runs.c.called_by)
)
_tasks_calling = select(_callers_of.c.called, _callers_of.c.task_id)
# By the index of what is leased: those without a lease come first or last in it.
_overlooked_calls = (
    struct_columns(flow_runs, _FLOW)
    .join(
        task_runs,
        and_(_runs.id == flow_runs.c.called_by, _runs.attempt == flow_runs.c.called_by_attempt),
    )
    .where(
        text(f"task_runs.{IS_LEASED}"),
        _runs.lease_expires_at.is_(None),
        flow_runs.c.completed_at.is_not(None),
    )
    .limit(bindparam("limit"))
)
_last_runs = (
    select(
        _runs.flow_run_id,
        _runs.id,
        _runs.task_id,
        _runs.task_name,
        _runs.part_of.is_not(None),
        _runs.shard_total,
        func.coalesce(func.length(cast(_runs.result, Text)), 0),
    )
    .where(
        in_array(_runs.flow_run_id, "ids"),
        not_(
            select(_edges.downstream_run_id)
            .where(_edges.upstream_run_id == _runs.id, _edges.flow_run_id == _runs.flow_run_id)
            .correlate(task_runs)
            .exists()
        ),
    )
    .order_by(_runs.flow_run_id, _runs.task_id, _runs.shard_index, _runs.id)
)

_backfill_ids = select(backfills.c.id).order_by(backfills.c.id)
_backfills = _backfill_ids.where(in_array(backfills.c.id, "ids")).with_for_update()
_waits = flow_runs.alias("waits")


def _first_turn(backfill_id: ColumnElement[Any], *after: ColumnElement[bool]) -> Any:
    """The earliest fire time of those that wait, after another."""
    return (
        select(_waits.c.scheduled_for)
        .where(text(f"waits.{AWAITS_TURN}"), _waits.c.backfill_id == backfill_id, *after)
        .order_by(_waits.c.scheduled_for)
        .limit(1)
        .scalar_subquery()
    )


_under_way = (
    select(func.count())
    .select_from(flow_runs)
    .where(text(IS_UNDER_WAY), flow_runs.c.backfill_id == backfills.c.id)
    .correlate(backfills)
    .scalar_subquery()
)
# One probe of the index for each that begins, however many wait.
_turns = (
    select(
        backfills.c.id.label("backfill_id"),
        _first_turn(backfills.c.id).label("scheduled_for"),
        (backfills.c.max_parallel - _under_way).label("room"),
    )
    .where(in_array(backfills.c.id, "ids"))
    .cte("turns", recursive=True)
)
_turns = _turns.union_all(
    select(
        _turns.c.backfill_id,
        _first_turn(_turns.c.backfill_id, _waits.c.scheduled_for > _turns.c.scheduled_for),
        _turns.c.room - 1,
    ).where(_turns.c.room > 1, _turns.c.scheduled_for.is_not(None))
)
_next_flow_runs = (
    struct_columns(flow_runs, _FLOW)
    .join(
        _turns,
        and_(
            flow_runs.c.backfill_id == _turns.c.backfill_id,
            flow_runs.c.scheduled_for == _turns.c.scheduled_for,
        ),
    )
    .where(_turns.c.room > 0, text(f"flow_runs.{AWAITS_TURN}"))
    .with_for_update(of=flow_runs)
)
_forget_backfills = backfills.delete().where(
    in_array(backfills.c.id, "ids"), _first_turn(backfills.c.id).is_(None)
)


class FlowRows(Rows):
    """The part of a transaction that knows which runs wait for which."""

    reaching: Reaching

    def __init__(self, connection: Connection, cache: StatementCache, now: datetime) -> None:
        super().__init__(connection, cache, now)
        self._decided: set[int] = set()  # whose tallies go at the end

    def flow_run(self, flow_run_id: str, namespace: str | None = None) -> FlowRun | None:
        if namespace is None:
            rows = self.fetch(_flow_run, flow_run_id=flow_run_id)
        else:
            rows = self.fetch(_flow_run_in_namespace, flow_run_id=flow_run_id, namespace=namespace)
        return flow_run_from(rows[0]) if rows else None

    def members(self, flow_run_id: str, after: int, limit: int) -> list[Member]:
        rows = self.fetch(_members, flow_run_id=flow_run_id, after=after, limit=limit)
        return [Member(*row) for row in rows]

    def members_by_id(self, run_ids: Collection[int]) -> dict[int, Member]:
        return {row[0]: Member(*row) for row in self.fetch(_members_by_id, ids=run_ids)}

    def flow_run_started_at(self, flow_run_id: str) -> datetime | None:
        found: datetime | None = self.fetch(_started_at, flow_run_id=flow_run_id)[0][0]
        return found

    def critical_path(self, flow_run_id: str) -> list[int]:
        return [row[0] for row in self.fetch(_critical_path, flow_run_id=flow_run_id)]

    def upstream_counts(self, run_ids: Collection[int]) -> dict[int, int]:
        return dict(self.fetch(_upstream_counts, ids=run_ids))

    def carried_runs(self, flow_run_id: str, after: int, limit: int) -> list[Member]:
        rows = self.fetch(_carried_runs, flow_run_id=flow_run_id, after=after, limit=limit)
        return [Member(*row) for row in rows]

    def edges_into(self, run_ids: Collection[int]) -> list[Edge]:
        return [Edge(*row) for row in self.fetch(_edges_into, ids=run_ids)]

    def task_edges_below(self, task_ids: Collection[int]) -> list[TaskEdge]:
        return [TaskEdge(*row) for row in self.fetch(self.reaching.task_edges, ids=task_ids)]

    def open_flow_runs(self, flow_runs_: Sequence[FlowRun], tallies: Sequence[Tally]) -> None:
        self.insert_rows(flow_runs, _FLOW, map(msgspec.structs.astuple, flow_runs_))
        self.insert_rows(run_tallies, _TALLY, map(msgspec.structs.astuple, tallies))

    def flow_runs(self, flow_run_ids: Collection[str]) -> dict[str, FlowRun]:
        rows = self.fetch(_flow_runs, ids=flow_run_ids)
        return {row[0]: flow_run_from(row) for row in rows}

    def count_down(self, ended: Mapping[str, int]) -> dict[str, FlowRun]:
        statement = self.cache.update(
            flow_runs,
            ("id",),
            (),
            sets="unfinished = CASE WHEN flow_runs.completed_at IS NULL "
            "THEN flow_runs.unfinished - given.column2 ELSE flow_runs.unfinished END",
            returning=_FLOW,
            brought=("unfinished",),
        )
        # In one order, so that two transactions do not wait for each other.
        rows = self.write_and_tell(statement, sorted(ended.items()))
        return {row[0]: flow_run_from(row) for row in rows}

    def unfinished_members(self, flow_run_ids: Collection[str]) -> list[int]:
        return [row[0] for row in self.fetch(_unfinished_members, ids=flow_run_ids)]

    def save_flow_runs(self, flow_runs_: Sequence[FlowRun]) -> None:
        changed = ("status", "total", "unfinished", "deadline_at", "completed_at", "reason")
        self.update_rows(
            flow_runs,
            ("id",),
            changed,
            ((each.id, *(getattr(each, name) for name in changed)) for each in flow_runs_),
        )

    def carry_over(self, flow_run_id: str, run_ids: Collection[int]) -> None:
        self.insert_rows(
            carried_runs, ("flow_run_id", "run_id"), ((flow_run_id, run_id) for run_id in run_ids)
        )

    def overdue_flow_runs(self, limit: int) -> list[str]:
        return [row[0] for row in self.fetch(_overdue, now=self.now, limit=limit)]

    def idle_runs_of(self, flow_run_ids: Collection[str]) -> list[RunHead]:
        return [head_from(row) for row in self.fetch(_idle, ids=flow_run_ids)]

    def open_calls(self, run_ids: Collection[int]) -> list[str]:
        return [row[0] for row in self.fetch(_open_calls, ids=run_ids)]

    def tasks_calling(self, flow_run_ids: Collection[str]) -> set[tuple[str, int]]:
        return {(row[0], row[1]) for row in self.fetch(_tasks_calling, ids=flow_run_ids)}

    def overlooked_calls(self, limit: int) -> list[FlowRun]:
        return [flow_run_from(row) for row in self.fetch(_overlooked_calls, limit=limit)]

    def last_runs_of(self, flow_run_ids: Collection[str]) -> list[LastRun]:
        return [LastRun(*row) for row in self.fetch(_last_runs, ids=flow_run_ids)]

    def keep_backfill(self, backfill_id: str, max_parallel: int) -> None:
        self.insert_rows(backfills, ("id", "max_parallel"), [(backfill_id, max_parallel)])

    def waiting_backfills(self) -> list[str]:
        return [row[0] for row in self.fetch(_backfill_ids)]

    def next_flow_runs(self, backfill_ids: Collection[str]) -> list[FlowRun]:
        # Counted by a statement of its own: what others committed meanwhile is seen.
        locked = [row[0] for row in self.fetch(_backfills, ids=backfill_ids)]
        rows = self.fetch(_next_flow_runs, ids=locked) if locked else []
        return [flow_run_from(row) for row in rows]

    def forget_backfills(self, backfill_ids: Collection[str]) -> None:
        self.execute(_forget_backfills, ids=backfill_ids)

    def runs_without_turn(self, flow_run_ids: Collection[str]) -> list[int]:
        return [row[0] for row in self.fetch(_without_turn, ids=flow_run_ids)]

    def end_edges(self, ends: Sequence[RunEnd]) -> tuple[list[Edge], dict[int, Tally]]:
        statement = self.cache.update(
            run_edges,
            ("upstream_run_id",),
            ("ended_as",),
            "run_edges.ended_as IS NULL",
            returning=_EDGE,
            beside=_of_its_tally,
        )
        rows = self.write_and_tell(statement, map(msgspec.structs.astuple, ends))
        width = len(_EDGE)
        tallies = {
            row[0]: Tally(*row[width:])
            for row in rows
            if row[width] is not None and row[0] not in self._decided
        }
        return [Edge(*row[:width]) for row in rows], tallies

    def add_edges(self, edges: Sequence[Edge]) -> None:
        self.insert_rows(run_edges, _EDGE, map(msgspec.structs.astuple, edges))

    def open_edges_from(self, run_ids: Collection[int]) -> list[Edge]:
        return [Edge(*row) for row in self.fetch(_open_edges_from, ids=run_ids)]

    def open_edges_below(self, run_ids: Collection[int]) -> list[Edge]:
        return [Edge(*row) for row in self.fetch(self.reaching.open_edges, ids=run_ids)]

    def outside_edges(self, limit: int) -> list[tuple[Edge, RunEnd]]:
        width = len(_EDGE)
        rows = self.fetch(_outside, limit=limit)
        return [(Edge(*row[:width]), RunEnd(*row[width:])) for row in rows]

    def take_outside_edges(self, found: Sequence[tuple[Edge, RunEnd]]) -> list[Edge]:
        statement = self.cache.update(
            run_edges,
            ("downstream_run_id", "upstream_task_id", "part"),
            ("upstream_run_id", "ended_as"),
            "run_edges.upstream_run_id IS NULL AND run_edges.ended_as IS NULL",
            "",
            _EDGE,
        )
        rows = self.write_and_tell(
            statement,
            (
                (edge.downstream_run_id, edge.upstream_task_id, edge.part, end.run_id, end.status)
                for edge, end in found
            ),
        )
        return [Edge(*row) for row in rows]

    def further_parts(self, run_ids: Collection[int]) -> dict[int, list[RunEnd]]:
        found: dict[int, list[RunEnd]] = {}
        for first, run_id, status in self.fetch(_further_parts, ids=run_ids):
            found.setdefault(first, []).append(RunEnd(run_id, status))
        return found

    def edges_from_outside(self, task_ids: Collection[int]) -> list[Edge]:
        return [Edge(*row) for row in self.fetch(_from_outside, ids=task_ids)]

    def tallies(self, run_ids: Collection[int]) -> dict[int, Tally]:
        rows = self.fetch(_tallies, ids=run_ids)
        return {row[0]: Tally(*row) for row in rows if row[0] not in self._decided}

    def save_tallies(self, tallies: Collection[Tally]) -> None:
        self.update_rows(
            run_tallies,
            ("run_id",),
            ("total", "met", "unmet", "failed"),
            ((each.run_id, each.total, each.met, each.unmet, each.failed) for each in tallies),
        )

    def forget_tallies(self, run_ids: Collection[int]) -> None:
        self._decided.update(run_ids)
        self.delete_last(run_tallies, "run_id", run_ids)

    def unhandled_ends(self, flow_run_ids: Collection[str]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {flow_run_id: {} for flow_run_id in flow_run_ids}
        for flow_run_id, status, count in self.fetch(_unhandled, ids=flow_run_ids):
            found[flow_run_id][status] = count
        return found

    def places_in_flow(self, run_ids: Collection[int]) -> dict[int, PlaceInFlow]:
        rows = self.fetch(_upstream_results, ids=run_ids)
        found = {
            run_id: PlaceInFlow({}, None if index is None else Shard(index, total), succeeded_at)
            for run_id, index, total, succeeded_at, *_ in rows
        }
        for (run_id, name), source in _gathered(rows).items():
            found[run_id].upstream[name] = source.result
        return found

    def upstream_ends(self, run_ids: Collection[int]) -> list[UpstreamEnd]:
        return [UpstreamEnd(*row) for row in self.fetch(_upstream_ends, ids=run_ids)]

    def results(self, run_ids: Collection[int]) -> dict[int, Any]:
        return {row[0]: row[1] for row in self.fetch(_results, ids=run_ids)}

    def waiting_runs(self, run_ids: Collection[int]) -> dict[int, WaitingRun]:
        return {row[0]: WaitingRun(*row) for row in self.fetch(_waiting_runs, ids=run_ids)}

    def map_sources(self, run_ids: Collection[int]) -> dict[int, Source]:
        found = _gathered(self.fetch(_map_sources, ids=run_ids))
        return {run_id: source for (run_id, _), source in found.items()}

    def items_not_started(self, run_ids: Collection[int]) -> list[TaskRun]:
        return [run_from(row) for row in self.fetch(_items_not_started, ids=run_ids)]


def _gathered(rows: Sequence[Sequence[Any]]) -> dict[tuple[int, str], Source]:
    """What the upstream runs came to, by downstream run and task: of parts the list of theirs."""
    found: dict[tuple[int, str], Source] = {}
    for run_id, _, _, _, name, status, part_of, total, result in rows:
        if name is None:
            continue  # it waited for nothing, or for what is gone
        if part_of is None:
            found[run_id, name] = Source(result, status is RunStatus.SKIPPED)
            continue
        parts = found.setdefault((run_id, name), Source([], False))
        if total != 0:
            parts.result.append(result)
    return found


def flow_run_from(row: Sequence[Any]) -> FlowRun:
    """A row of the columns that `FlowRun` names."""
    return FlowRun(**dict(zip(_FLOW, row, strict=True)))
