"""Flow runs: which run waits for which, and what that came to."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    func,
    literal_column,
    not_,
    select,
    text,
)

from tidemill.domain.dependency import Edge, Tally
from tidemill.domain.flow_run import FlowRun, Member
from tidemill.domain.run_status import RunStatus
from tidemill.foundation.store import RunEnd, TaskEdge
from tidemill.infrastructure.database.prepared import in_array, struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import (
    IS_OUTSIDE,
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
_last_member = (
    select(task_runs.c.id)
    .where(task_runs.c.flow_run_id == bindparam("flow_run_id"), _took_time)
    .order_by(task_runs.c.completed_at.desc(), task_runs.c.id)
    .limit(1)
    .subquery()
)
_path = select(_last_member.c.id, literal_column("0").label("place")).cte("path", recursive=True)
_last_upstream = (
    select(task_runs.c.id)
    .join(run_edges, _edges.upstream_run_id == task_runs.c.id)
    .where(_edges.downstream_run_id == _path.c.id, _took_time)
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
    .where(task_runs.c.flow_run_id == bindparam("flow_run_id"), task_runs.c.completed_at.is_(None))
    .order_by(task_runs.c.id)
)
_edges_into = struct_columns(run_edges, _EDGE).where(in_array(_edges.downstream_run_id, "ids"))
_tallies = struct_columns(run_tallies, _TALLY).where(in_array(run_tallies.c.run_id, "ids"))
_forget_tallies = run_tallies.delete().where(in_array(run_tallies.c.run_id, "ids"))

_later = task_runs.alias("later")
_outside = (
    struct_columns(run_edges, _EDGE)
    .add_columns(task_runs.c.id, task_runs.c.status)
    .join(flow_runs, flow_runs.c.id == _edges.flow_run_id)
    .join(
        task_runs,
        and_(
            task_runs.c.id
            == select(_later.c.id)
            .where(
                _later.c.task_id == _edges.upstream_task_id,
                _later.c.scheduled_for >= flow_runs.c.scheduled_for,
                _later.c.completed_at.is_not(None),
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
_from_outside = struct_columns(run_edges, _EDGE).where(
    text(IS_OUTSIDE), in_array(_edges.upstream_task_id, "ids")
)

_runs = task_runs.c
_downstream = task_runs.alias("downstream")
_unhandled = (
    select(_runs.flow_run_id, _runs.status, func.count())
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
    .group_by(_runs.flow_run_id, _runs.status)
)
_upstream_results = (
    select(_edges.downstream_run_id, _runs.task_name, _runs.result)
    .join(task_runs, _runs.id == _edges.upstream_run_id)
    .where(in_array(_edges.downstream_run_id, "ids"))
    .order_by(_edges.downstream_run_id, _edges.part)
)


class FlowRows(Rows):
    """The part of a transaction that knows which runs wait for which."""

    reaching: Reaching

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

    def unfinished_members(self, flow_run_id: str) -> list[int]:
        return [row[0] for row in self.fetch(_unfinished_members, flow_run_id=flow_run_id)]

    def save_flow_runs(self, flow_runs_: Sequence[FlowRun]) -> None:
        changed = ("status", "total", "unfinished", "completed_at")
        self.update_rows(
            flow_runs,
            ("id",),
            changed,
            ((each.id, *(getattr(each, name) for name in changed)) for each in flow_runs_),
        )

    def end_edges(self, ends: Sequence[RunEnd]) -> list[Edge]:
        statement = self.cache.update(
            run_edges,
            ("upstream_run_id",),
            ("ended_as",),
            "run_edges.ended_as IS NULL",
            "",
            _EDGE,
        )
        rows = self.write_and_tell(statement, map(msgspec.structs.astuple, ends))
        return [Edge(*row) for row in rows]

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

    def edges_from_outside(self, task_ids: Collection[int]) -> list[Edge]:
        return [Edge(*row) for row in self.fetch(_from_outside, ids=task_ids)]

    def tallies(self, run_ids: Collection[int]) -> dict[int, Tally]:
        return {row[0]: Tally(*row) for row in self.fetch(_tallies, ids=run_ids)}

    def save_tallies(self, tallies: Collection[Tally]) -> None:
        self.update_rows(
            run_tallies,
            ("run_id",),
            ("total", "met", "unmet", "failed"),
            ((each.run_id, each.total, each.met, each.unmet, each.failed) for each in tallies),
        )

    def forget_tallies(self, run_ids: Collection[int]) -> None:
        self.execute(_forget_tallies, ids=run_ids)

    def unhandled_ends(self, flow_run_ids: Collection[str]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {flow_run_id: {} for flow_run_id in flow_run_ids}
        for flow_run_id, status, count in self.fetch(_unhandled, ids=flow_run_ids):
            found[flow_run_id][status] = count
        return found

    def upstream_results(self, run_ids: Collection[int]) -> dict[int, dict[str, list[Any]]]:
        found: dict[int, dict[str, list[Any]]] = {}
        for run_id, task_name, result in self.fetch(_upstream_results, ids=run_ids):
            found.setdefault(run_id, {}).setdefault(task_name, []).append(result)
        return found


def flow_run_from(row: Sequence[Any]) -> FlowRun:
    """A row of the columns that `FlowRun` names."""
    return FlowRun(**dict(zip(_FLOW, row, strict=True)))
