"""How a task becomes a run."""

from datetime import datetime
from typing import Any

import msgspec

from tidemill.domain.deadline import seconds_after
from tidemill.domain.jitter import jittered
from tidemill.domain.misfire import MisfirePlan
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, Task, TaskStatus, concurrency_key_of, lane_of
from tidemill.domain.task_run import Hold, TaskRun, Trigger, rank_of

SCHEDULE_KEY = "schedule"  # trigger_key of every firing: with the fire time it is one of a kind


def fired_run(task: Task, fire_time: datetime, now: datetime, missed_count: int = 0) -> TaskRun:
    """The run of one firing; jitter delays its start, not its fire time."""
    return new_run(
        task,
        Trigger.SCHEDULE,
        SCHEDULE_KEY,
        fire_time,
        now,
        not_before=jittered(fire_time, task.key, task.definition.jitter_seconds),
        missed_count=missed_count,
    )


def new_run(
    task: Task,
    trigger: Trigger,
    trigger_key: str,
    scheduled_for: datetime,
    now: datetime,
    *,
    not_before: datetime | None = None,
    parameters: dict[str, Any] | None = None,
    priority: Priority | None = None,
    timeout_seconds: float | None = None,
    missed_count: int = 0,
    retry_of: int | None = None,
    traceparent: str | None = None,
) -> TaskRun:
    """A pending run of the version in force; None takes what the task says."""
    definition = task.definition
    not_before = not_before or scheduled_for
    ready_at = max(not_before, now)
    level = (priority or definition.priority).level
    return msgspec.structs.replace(
        _blank_run(task, trigger, trigger_key, scheduled_for, now),
        not_before=not_before,
        priority=level,
        rank=rank_of(ready_at, level),
        hold=Hold.TIME if not_before > now else None,
        parameters=parameters or {},
        max_attempts=definition.retry.max_retries + 1,
        concurrency_key=concurrency_key_of(task.id, definition.concurrency),
        concurrency_limit=definition.concurrency.limit,
        timeout_seconds=timeout_seconds or definition.timeout_seconds,
        queue_timeout_seconds=definition.queue_timeout_seconds,
        queue_deadline_at=seconds_after(ready_at, definition.queue_timeout_seconds),
        deadline_at=seconds_after(ready_at, definition.deadline_seconds),
        missed_count=missed_count,
        retry_of=retry_of,
        traceparent=traceparent,
    )


def dependent_run(task: Task, root: TaskRun, now: datetime) -> TaskRun:
    """The run of a task that hangs on `root`, in its flow run and with its parameters; that of a
    paused task is skipped."""
    run = msgspec.structs.replace(
        new_run(
            task,
            Trigger.DEPENDENCY,
            f"flow:{root.task_id}:{root.trigger_key}",
            root.scheduled_for,
            now,
            parameters=root.parameters,
            traceparent=root.traceparent,
        ),
        flow_run_id=root.flow_run_id,
    )
    if task.status is TaskStatus.PAUSED:
        return paused_run(run, now)
    return waiting_run(run)


def paused_run(run: TaskRun, now: datetime) -> TaskRun:
    """The same run, which is never to start: its task is paused."""
    return msgspec.structs.replace(
        run, status=RunStatus.SKIPPED, reason="paused", hold=None, completed_at=now
    )


def waiting_run(run: TaskRun) -> TaskRun:
    """The same run, once its upstream runs have ended: no time limit is counted before."""
    return msgspec.structs.replace(
        run, status=RunStatus.WAITING, hold=None, queue_deadline_at=None, deadline_at=None
    )


def run_without_turn(run: TaskRun) -> TaskRun:
    """The same run, once its flow run begins: no time limit is counted before."""
    return msgspec.structs.replace(run, hold=Hold.TURN, queue_deadline_at=None, deadline_at=None)


def rows_of_skips(
    task: Task, plan: MisfirePlan, now: datetime
) -> list[tuple[TaskRun, datetime | None]]:
    """A row for all that a plan skips, each with the time of the run that it was coalesced into."""
    singles = [
        (skipped_run(task, skip.scheduled_for, now, skip.reason), skip.coalesced_into)
        for skip in plan.skipped
    ]
    ranges = [
        (
            skipped_run(
                task,
                stretch.last,
                now,
                stretch.reason,
                range_from=stretch.first,
                count=stretch.count,
            ),
            stretch.coalesced_into,
        )
        for stretch in plan.ranges
    ]
    return [*singles, *ranges]


def skipped_run(
    task: Task,
    fire_time: datetime,
    now: datetime,
    reason: str,
    *,
    coalesced_into: int | None = None,
    range_from: datetime | None = None,
    count: int = 1,
) -> TaskRun:
    """The row that accounts for a firing that was never to start, or for a range of them."""
    return msgspec.structs.replace(
        _blank_run(task, Trigger.SCHEDULE, SCHEDULE_KEY, fire_time, now),
        status=RunStatus.SKIPPED,
        reason=reason,
        missed_count=count - 1,
        coalesced_into=coalesced_into,
        range_from=range_from,
        completed_at=now,
    )


def _blank_run(
    task: Task, trigger: Trigger, trigger_key: str, scheduled_for: datetime, now: datetime
) -> TaskRun:
    """A run of which nothing is said yet but whose it is and what made it."""
    definition = task.definition
    return TaskRun(
        id=0,  # given by the store
        namespace=definition.namespace,
        task_id=task.id,
        task_version=task.version,
        status=RunStatus.PENDING,
        hold=None,
        reason=None,
        attempt=0,
        max_attempts=1,
        losses=0,
        hand_backs=0,
        fence=0,
        concurrency_key=None,
        concurrency_limit=None,
        queue_timeout_seconds=None,
        event_seq=0,
        worker_id=None,
        started_at=None,
        flow_run_id=None,
        task_name=definition.name,
        task_type=definition.task_type,
        lane=lane_of(definition),
        scheduled_for=scheduled_for,
        not_before=scheduled_for,
        parameters={},
        timeout_seconds=None,
        deadline_at=None,
        missed_count=0,
        checkpoint=None,
        traceparent=None,
        log_seq=0,
        trigger=trigger,
        trigger_key=trigger_key,
        priority=definition.priority.level,
        rank=now,
        lease_expires_at=None,
        queue_deadline_at=None,
        coalesced_into=None,
        range_from=None,
        retry_of=None,
        part_of=None,
        shard_index=None,
        shard_total=None,
        result=None,
        error_message=None,
        exit_code=None,
        progress=None,
        created_at=now,
        dispatched_at=None,
        completed_at=None,
    )
