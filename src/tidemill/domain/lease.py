"""The right to a run until an instant, and the number that tells an old holder from a new one."""

from datetime import datetime, timedelta

from tidemill.domain.run_status import LEASED
from tidemill.domain.task_run import TaskRun

MAX_LOSSES = 3  # a run whose worker was lost this often is poison


def is_held(run: TaskRun, fence: int) -> bool:
    """Whether the one who claimed with `fence` may still write to `run`."""
    return run.fence == fence and run.status in LEASED


def is_over(run: TaskRun, now: datetime) -> bool:
    """Whether the lease of `run` has run out by database time."""
    return run.status in LEASED and run.lease_expires_at is not None and run.lease_expires_at <= now


def is_poison(run: TaskRun) -> bool:
    """Whether losing one more worker to `run` is one too many."""
    return run.losses + 1 >= MAX_LOSSES


def stop_before(claimed_monotonic: float, lease: timedelta, kill_grace: timedelta) -> float:
    """When, by its own monotonic clock, a worker that could not renew must begin to end the tree.

    Early enough that SIGTERM, the grace and SIGKILL are done before another may start the run;
    never earlier than a third of the lease, so that one slow renewal is survived.
    """
    margin = min(kill_grace + timedelta(seconds=1), lease * 2 / 3)
    return claimed_monotonic + (lease - margin).total_seconds()
