"""The runs of one firing of connected tasks."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import uuid4

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Trigger


class FlowStatus(StrEnum):
    """Where a flow run is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"  # every failure in it was one that a dependent waited for
    FAILED = "failed"
    CANCELLED = "cancelled"  # at least one run was cancelled, and none failed


class FlowRun(msgspec.Struct, frozen=True, kw_only=True):
    """One flow run; the fields are the columns of `flow_runs`."""

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


class Member(msgspec.Struct, frozen=True):
    """As much of a run as its flow run tells of it."""

    id: int
    task_id: int
    task_name: str
    status: RunStatus
    reason: str | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


def new_flow_run_id(now: datetime) -> str:
    """One of a kind; ids that are made later sort later."""
    return f"{int(now.timestamp() * 1000):012x}{uuid4().hex[:16]}"


def flow_status(unhandled: Mapping[str, int]) -> FlowStatus:
    """How a flow run ended, by the ends of those runs whose end nobody took up downstream."""
    if unhandled.get("failed") or unhandled.get("timed_out"):
        return FlowStatus.FAILED
    return FlowStatus.CANCELLED if unhandled.get("cancelled") else FlowStatus.SUCCEEDED
