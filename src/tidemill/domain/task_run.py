"""A run: one execution of a task from creation to its end, and the changes that move it."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from tidemill.domain.events import EventType, RunEvent
from tidemill.domain.run_status import RunStatus, may_follow

# Who holds a run that calls a task, in place of a worker: it has no lease, and cannot be lost.
CALLER = "dispatcher"

AGEING_STEP = timedelta(minutes=5)  # waiting this long is worth one level of priority


class Trigger(StrEnum):
    """What made a run."""

    SCHEDULE = "schedule"
    MANUAL = "manual"
    DEPENDENCY = "dependency"
    RETRY = "retry"
    BACKFILL = "backfill"
    API = "api"
    EVENT = "event"
    CALL = "call"  # a run of another task, which waits for it


class Hold(StrEnum):
    """What keeps a pending run from being dispatched; whoever removes the cause clears it."""

    TIME = "time"  # not_before has not come
    OVERLAP = "overlap"  # an earlier run of the task has not ended
    CATCH_UP = "catch_up"  # as OVERLAP, but made by run_all: never superseded by a newer one
    LIMIT = "limit"  # its concurrency key is full
    TURN = "turn"  # its flow run waits for its turn in a backfill


HOLDS_FOR_TASK = frozenset({Hold.OVERLAP, Hold.CATCH_UP})


class AttemptOutcome(StrEnum):
    """How an attempt closed."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"  # its worker's lease ran out
    HANDED_BACK = "handed_back"  # its worker drained; costs none of the allowed attempts


class RunHead(msgspec.Struct, frozen=True):
    """As much of a run as its next status depends on: less than a third of the row.

    Neither this nor what grows from it has defaults: rows are read by position, which takes a tenth
    of the time.
    """

    id: int  # given by the store
    namespace: str
    task_id: int
    task_version: int
    status: RunStatus
    hold: Hold | None
    reason: str | None
    attempt: int
    max_attempts: int
    losses: int
    hand_backs: int
    fence: int
    concurrency_key: str | None
    concurrency_limit: int | None
    queue_timeout_seconds: float | None
    event_seq: int
    worker_id: str | None
    started_at: datetime | None
    flow_run_id: str | None


class ReadyRun(msgspec.Struct, frozen=True):
    """As much of a ready run as its dispatch depends on, and its message tells."""

    id: int
    namespace: str
    attempt: int
    event_seq: int
    concurrency_key: str | None
    concurrency_limit: int | None
    traceparent: str | None


class InLine(msgspec.Struct, frozen=True, order=True):
    """The place of a ready run: who is less starts first."""

    rank: datetime
    scheduled_for: datetime
    id: int
    has_key: bool  # it counts against a concurrency key


class LeasedRun(RunHead, frozen=True):
    """As much of a run as the worker that holds it needs: half of the row."""

    task_name: str
    task_type: str
    lane: str
    scheduled_for: datetime  # the fire time the rule demanded
    not_before: datetime
    parameters: dict[str, Any]
    timeout_seconds: float | None
    deadline_at: datetime | None
    missed_count: int
    checkpoint: Any
    traceparent: str | None
    log_seq: int


class TaskRun(LeasedRun, frozen=True):
    """One execution of a task. The fields are the columns of `task_runs`."""

    trigger: Trigger
    trigger_key: str  # with task_id and scheduled_for, what makes the run one of a kind
    priority: int
    rank: datetime  # ready runs start in this order; see `rank_of`
    lease_expires_at: datetime | None
    queue_deadline_at: datetime | None
    coalesced_into: int | None
    range_from: datetime | None  # a skipped row for all fire times from here on
    retry_of: int | None
    part_of: int | None  # the first of the runs that it was split or mapped into; its own too
    shard_index: int | None  # which part of the work, or which item, is its own, from 0
    shard_total: int | None  # of how many; 0 where there was nothing to be mapped over
    result: Any
    error_message: str | None
    exit_code: int | None
    progress: dict[str, Any] | None
    created_at: datetime
    dispatched_at: datetime | None
    completed_at: datetime | None


class Shard(msgspec.Struct, frozen=True):
    """Which part of the work is a run's own: number `index`, from 0, of `total`."""

    index: int = 0
    total: int = 1


class RunAttempt(msgspec.Struct, frozen=True):
    """One try of a run, numbered from 1. The fields are the columns of `run_attempts`.

    A row is written with its end, once; what is known of the one under way stands in the run.
    """

    run_id: int
    attempt: int
    fence: int
    worker_id: str
    started_at: datetime
    completed_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    exit_code: int | None = None
    error_message: str | None = None


def ended_attempt(
    run: RunHead,
    outcome: AttemptOutcome,
    at: datetime,
    exit_code: int | None = None,
    error_message: str | None = None,
) -> RunAttempt:
    """How the attempt under way in `run`, which is leased, ended."""
    assert run.worker_id is not None
    assert run.started_at is not None
    return RunAttempt(
        run.id,
        run.attempt,
        run.fence,
        run.worker_id,
        run.started_at,
        at,
        outcome,
        exit_code,
        error_message,
    )


class Success(msgspec.Struct, frozen=True):
    """How an attempt that was claimed with `fence` came to a good end."""

    run_id: int
    fence: int
    result: Any
    exit_code: int | None
    log_seq: int  # the number of its last line of output


class RunChange(msgspec.Struct, frozen=True):
    """A guarded change of one run row and the event that tells it.

    It applies only while the row still has the status, fence and event number of `before`.
    """

    before: RunHead
    changes: dict[str, Any]
    event: RunEvent


def created(
    run_id: int,
    namespace: str,
    at: datetime,
    trigger: Trigger,
    status: RunStatus = RunStatus.PENDING,
) -> RunEvent:
    """What is told of a new run that is to start, or waits for others."""
    data = {"to": status.value, "trigger": trigger.value}
    return RunEvent(run_id, 1, EventType.RUN_CREATED, at, data, namespace)


def skipped(
    run_id: int, namespace: str, at: datetime, trigger: Trigger, reason: str | None
) -> RunEvent:
    """What is told of a run that was never to start."""
    data = {"to": RunStatus.SKIPPED.value, "trigger": trigger.value, "reason": reason}
    return RunEvent(run_id, 1, EventType.RUN_SKIPPED, at, data, namespace)


def dispatched(run: ReadyRun | RunHead, at: datetime) -> RunEvent:
    """What is told of a run that was handed to the queue; `run` is as it was before."""
    data = {"from": RunStatus.PENDING.value, "to": RunStatus.DISPATCHED.value}
    return RunEvent(run.id, run.event_seq + 1, EventType.RUN_DISPATCHED, at, data, run.namespace)


def dispatched_before(run: LeasedRun, at: datetime) -> RunEvent:
    """The same of a run that was claimed at once; `run` is as the claim left it."""
    data = {"from": RunStatus.PENDING.value, "to": RunStatus.DISPATCHED.value}
    return RunEvent(run.id, run.event_seq - 1, EventType.RUN_DISPATCHED, at, data, run.namespace)


def started(run: LeasedRun, at: datetime) -> RunEvent:
    """What is told of a run that was claimed; `run` is as the claim left it."""
    data = {
        "from": RunStatus.DISPATCHED.value,
        "to": RunStatus.RUNNING.value,
        "attempt": run.attempt,
        "fence": run.fence,
        "worker_id": run.worker_id,
        "late_seconds": (at - run.not_before).total_seconds(),
    }
    return RunEvent(run.id, run.event_seq, EventType.RUN_STARTED, at, data, run.namespace)


def succeeded(run: RunHead, success: Success, at: datetime) -> RunEvent:
    """What is told of a run that succeeded; `run` is as its end left it."""
    data = {
        "from": RunStatus.RUNNING.value,
        "to": RunStatus.SUCCEEDED.value,
        "attempt": run.attempt,
        "reason": None,
        "exit_code": success.exit_code,
        "took_seconds": (at - run.started_at).total_seconds() if run.started_at else None,
    }
    return RunEvent(run.id, run.event_seq, EventType.RUN_FINISHED, at, data, run.namespace)


def move(
    run: RunHead,
    to: RunStatus,
    at: datetime,
    event: EventType,
    data: dict[str, Any] | None = None,
    **changes: Any,
) -> RunChange:
    """The change that takes `run` to status `to`; raises ValueError where §2 forbids it."""
    if not may_follow(run.status, to):
        raise ValueError(f"a run may not go from {run.status} to {to}")
    changes["status"] = to
    told = {"from": run.status.value, "to": to.value}
    return annotate(run, at, event, told | data if data else told, **changes)


def annotate(
    run: RunHead,
    at: datetime,
    event: EventType,
    data: dict[str, Any] | None = None,
    **changes: Any,
) -> RunChange:
    """A change that leaves the status as it is but is told in the run's log."""
    seq = run.event_seq + 1
    changes["event_seq"] = seq
    return RunChange(run, changes, RunEvent(run.id, seq, event, at, data or {}, run.namespace))


def cancelled(run: RunHead, at: datetime, reason: str, **changes: Any) -> RunChange:
    """The change that ends `run`, which nobody holds, before it starts."""
    return move(
        run,
        RunStatus.CANCELLED,
        at,
        EventType.RUN_CANCELLED,
        {"reason": reason},
        reason=reason,
        hold=None,
        completed_at=at,
        **changes,
    )


def rank_of(ready_at: datetime, priority: int) -> datetime:
    """The order of ready runs as a fixed instant: each level of priority is five minutes' lead.

    A run that waits gains on later ones by itself, so that ageing needs no rewriting of rows.
    """
    return ready_at - priority * AGEING_STEP
