"""What the choice of a worker looks at, and the runs that it moves."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert  # SQLite writes the same

from tidemill.domain.task_run import Shard, TaskRun
from tidemill.infrastructure.database.prepared import in_array, struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.run_rows import run_from
from tidemill.infrastructure.database.tables import (
    IS_DISPATCHED,
    IS_LEASED,
    IS_READY,
    lane_turns,
    task_runs,
)

_runs = task_runs.c

_running_counts = (
    select(_runs.worker_id, func.count()).where(text(IS_LEASED)).group_by(_runs.worker_id)
)
_dispatched_lanes = select(_runs.lane, func.count()).where(text(IS_DISPATCHED)).group_by(_runs.lane)
_shards = select(_runs.id, _runs.shard_index, _runs.shard_total).where(
    in_array(_runs.id, "ids"), _runs.shard_index.is_not(None)
)
_to_place = (
    struct_columns(task_runs, TaskRun.__struct_fields__)
    .where(text(IS_READY), _runs.lane == bindparam("lane"))
    .order_by(_runs.rank, _runs.scheduled_for, _runs.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_dispatched_in = (
    struct_columns(task_runs, TaskRun.__struct_fields__)
    .where(text(IS_DISPATCHED), in_array(_runs.lane, "lanes"))
    .with_for_update(skip_locked=True)
)
_lanes_dispatched_before = (
    select(_runs.lane)
    .where(text(IS_DISPATCHED), _runs.dispatched_at <= bindparam("before"))
    .distinct()
)
_dispatched_before = (
    struct_columns(task_runs, TaskRun.__struct_fields__)
    .where(
        text(IS_DISPATCHED),
        _runs.lane == bindparam("lane"),
        _runs.dispatched_at <= bindparam("before"),
    )
    .order_by(_runs.dispatched_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_taken = insert(lane_turns).values(lane=bindparam("lane"), turn=bindparam("count"))
_take_turns = _taken.on_conflict_do_update(
    index_elements=[lane_turns.c.lane], set_={"turn": lane_turns.c.turn + _taken.excluded.turn}
).returning(lane_turns.c.turn)


class PlacementRows(Rows):
    """The part of a transaction that finds out whom runs are for."""

    def running_counts(self) -> dict[str, int]:
        return dict(self.fetch(_running_counts))

    def dispatched_lanes(self) -> dict[str, int]:
        return dict(self.fetch(_dispatched_lanes))

    def shards(self, run_ids: Collection[int]) -> dict[int, Shard]:
        rows = self.fetch(_shards, ids=run_ids)
        return {run_id: Shard(index, total) for run_id, index, total in rows}

    def runs_to_place(self, lane: str, limit: int) -> list[TaskRun]:
        return [run_from(row) for row in self.fetch(_to_place, lane=lane, limit=limit)]

    def dispatched_runs(self, lanes: Collection[str]) -> list[TaskRun]:
        return [run_from(row) for row in self.fetch(_dispatched_in, lanes=lanes)]

    def lanes_dispatched_before(self, before: datetime) -> list[str]:
        return [row[0] for row in self.fetch(_lanes_dispatched_before, before=before)]

    def dispatched_before(self, lane: str, before: datetime, limit: int) -> list[TaskRun]:
        rows = self.fetch(_dispatched_before, lane=lane, before=before, limit=limit)
        return [run_from(row) for row in rows]

    def take_turns(self, lane: str, count: int) -> int:
        [[taken]] = self.fetch(_take_turns, lane=lane, count=count)
        return int(taken) - count
