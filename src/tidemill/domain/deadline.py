"""Until when a run may wait, and until when all its attempts together may take."""

from datetime import datetime, timedelta
from typing import Literal

from tidemill.domain.run_status import FINAL, LEASED
from tidemill.domain.task_run import LeasedRun, RunHead, TaskRun


def overdue_reason(run: TaskRun, now: datetime) -> Literal["deadline", "queue_timeout"] | None:
    """Why `run` must not start any more, or None where it still may.

    The deadline binds all attempts; the queue's only one that waits to be started.
    """
    if run.status in FINAL:
        return None
    if run.deadline_at is not None and run.deadline_at <= now:
        return "deadline"
    is_waiting = run.status not in LEASED
    if is_waiting and run.queue_deadline_at is not None and run.queue_deadline_at <= now:
        return "queue_timeout"
    return None


def seconds_left(run: LeasedRun, now: datetime) -> float | None:
    """How long this attempt may take before the deadline of all; None where there is none."""
    if run.deadline_at is None:
        return None
    return max((run.deadline_at - now).total_seconds(), 0.0)


def seconds_after(instant: datetime, seconds: float | None) -> datetime | None:
    """So many seconds after an instant; None where there is no bound."""
    return None if seconds is None else instant + timedelta(seconds=seconds)


def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """The earlier of two instants, where None is one that never comes."""
    if one is None or other is None:
        return one or other
    return min(one, other)


def queue_deadline(run: RunHead, ready_at: datetime) -> datetime | None:
    """Until when a run that is ready at `ready_at` may wait to be started."""
    return seconds_after(ready_at, run.queue_timeout_seconds)
