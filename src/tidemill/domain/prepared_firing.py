"""What a firing takes from its task, worked out before its time comes."""

from datetime import datetime, timedelta

import msgspec

from tidemill.domain.new_run import fired_run
from tidemill.domain.task import Task


class PreparedFiring(msgspec.Struct, frozen=True, kw_only=True):
    """One firing of a version of a task; the fields are the columns of `prepared_firings`.

    It holds while the task is at that version and the firing is its next. It says what becomes of
    a firing that is turned into a run in time; whatever comes otherwise is decided then.
    """

    task_id: int
    task_version: int
    scheduled_for: datetime
    is_plain: bool  # False: how its run looks is decided when its time has come
    following_at: datetime | None  # the fire time after it; once that came too, it is not plain
    late_after: datetime  # the last instant at which it is in time
    may_overlap: bool  # it is made whether or not an earlier run of the task has ended
    lane: str
    priority: int
    max_attempts: int
    concurrency_key: str | None
    concurrency_limit: int | None
    timeout_seconds: float | None


def prepare_firing(task: Task) -> PreparedFiring:
    """The next firing of an active task."""
    schedule, at, definition = task.schedule, task.next_run_at, task.definition
    assert schedule is not None
    assert at is not None
    run = fired_run(task, at, at)
    is_plain = (
        schedule.kind != "after"
        and not definition.dependencies
        and run.not_before == at
        and run.queue_deadline_at is None
        and run.deadline_at is None
    )
    return PreparedFiring(
        task_id=task.id,
        task_version=task.version,
        scheduled_for=at,
        is_plain=is_plain,
        following_at=schedule.next_after(at),
        late_after=at + timedelta(seconds=definition.misfire.grace_seconds),
        may_overlap=definition.overlap == "allow",
        lane=run.lane,
        priority=run.priority,
        max_attempts=run.max_attempts,
        concurrency_key=run.concurrency_key,
        concurrency_limit=run.concurrency_limit,
        timeout_seconds=run.timeout_seconds,
    )
