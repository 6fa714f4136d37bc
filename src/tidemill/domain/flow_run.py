"""The runs of one firing of connected tasks."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count
from uuid import uuid4

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Trigger

_TURNS = 1 << 24  # of one process, until they begin again
_made = count()


class FlowStatus(StrEnum):
    """Where a flow run is."""

    WAITING = "waiting"  # for its turn in a backfill
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # every failure in it was one that a dependent waited for
    FAILED = "failed"
    CANCELLED = "cancelled"  # at least one run was cancelled, and none failed


class FlowRun(msgspec.Struct, frozen=True, kw_only=True):
    """One flow run; the fields are the columns of `flow_runs`.

    Its deadline counts from its beginning: one that waits for its turn has none yet.
    """

    id: str
    namespace: str
    root_task_id: int
    root_run_id: int
    trigger: Trigger
    scheduled_for: datetime
    status: FlowStatus = FlowStatus.RUNNING
    total: int  # its runs
    unfinished: int  # those that have not ended
    created_at: datetime
    completed_at: datetime | None = None
    reason: str | None = None  # why it failed, where that is not told by its runs alone
    retry_of: str | None = None  # the flow run whose failed runs this one runs again
    deadline_seconds: float | None = None
    deadline_at: datetime | None = None
    backfill_id: str | None = None  # of a backfill with a bound on its flow runs
    called_by: int | None = None  # the run that called its root task, and waits for its end
    called_by_attempt: int | None = None  # the attempt of that run that it is for


class Member(msgspec.Struct, frozen=True):
    """As much of a run as its flow run tells of it."""

    id: int
    task_id: int
    task_name: str
    status: RunStatus
    reason: str | None
    attempt: int
    part_of: int | None  # the first of the runs that one became: for each item, or each shard
    shard_index: int | None
    shard_total: int | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


def new_flow_run_id(now: datetime) -> str:
    """One of a kind; ids that a process makes later sort later, within one millisecond too."""
    turn = next(_made) % _TURNS
    return f"{int(now.timestamp() * 1000):012x}{turn:06x}{uuid4().hex[:10]}"


def begun(flow_run: FlowRun, at: datetime) -> FlowRun:
    """The same flow run, whose runs may start from `at` on."""
    seconds = flow_run.deadline_seconds
    return msgspec.structs.replace(
        flow_run,
        status=FlowStatus.RUNNING,
        deadline_at=None if seconds is None else at + timedelta(seconds=seconds),
    )


def ended(flow_run: FlowRun, unhandled: Mapping[str, int], at: datetime) -> FlowRun:
    """The same flow run, whose last run ended at `at`."""
    status = flow_status(unhandled)
    is_late = flow_run.deadline_at is not None and flow_run.deadline_at <= at
    return msgspec.structs.replace(
        flow_run,
        status=status,
        reason="deadline" if is_late and status is FlowStatus.FAILED else None,
        completed_at=at,
    )


def flow_status(unhandled: Mapping[str, int]) -> FlowStatus:
    """How a flow run ended, by the ends of those runs whose end nobody took up downstream."""
    if unhandled.get("failed") or unhandled.get("timed_out"):
        return FlowStatus.FAILED
    return FlowStatus.CANCELLED if unhandled.get("cancelled") else FlowStatus.SUCCEEDED
