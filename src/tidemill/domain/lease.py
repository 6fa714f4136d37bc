"""The right to a run until an instant, and the number that tells an old holder from a new one."""

from datetime import datetime, timedelta

from tidemill.domain.run_status import LEASED
from tidemill.domain.task_run import RunHead, TaskRun

MAX_LOSSES = 3  # a run whose worker was lost this often is poison


def is_held(run: RunHead, fence: int) -> bool:
    """Whether the one who claimed with `fence` may still write to `run`."""
    return run.fence == fence and run.status in LEASED


def is_over(run: TaskRun, now: datetime) -> bool:
    """Whether the lease of `run` has run out by database time."""
    return run.status in LEASED and run.lease_expires_at is not None and run.lease_expires_at <= now


def is_poison(run: RunHead) -> bool:
    """Whether losing one more worker to `run` is one too many."""
    return run.losses + 1 >= MAX_LOSSES


def stop_before(renewed_monotonic: float, lease: timedelta) -> float:
    """When, by its own monotonic clock, a worker that could not renew must kill the tree.

    A third of the lease is left for the kill, so that the tree is gone before the run may be
    claimed elsewhere; `renewed_monotonic` is when the last renewal that succeeded was asked for.
    """
    return renewed_monotonic + (lease * 2 / 3).total_seconds()
