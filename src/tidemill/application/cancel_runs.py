"""Runs are ended before their time: at once where nothing runs, else by their worker."""

from collections.abc import Sequence

import msgspec

from tidemill.application.follow_up import follow_up_ended
from tidemill.application.release_dependents import release_dependents
from tidemill.domain.events import EventType
from tidemill.domain.run_status import NOT_STARTED, RunStatus
from tidemill.domain.task_run import TaskRun, cancelled, move
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def cancel_runs(transaction: Transaction, runs: Sequence[TaskRun], reason: str) -> int:
    """Cancel those of `runs`, locked, that have not ended; how many were changed."""
    idle = [run for run in runs if run.status in NOT_STARTED]
    running = [run for run in runs if run.status is RunStatus.RUNNING]
    if not idle and not running:
        return 0
    transaction.change_runs(
        [cancelled(run, transaction.now, reason) for run in idle]
        + [
            move(
                run,
                RunStatus.CANCELLING,
                transaction.now,
                EventType.CANCEL_REQUESTED,
                {"reason": reason},
                reason=reason,
            )
            for run in running
        ]
    )
    transaction.announce(Topic.EVENTS)
    if running:
        transaction.announce(Topic.LEASES)
    if any(run.status is RunStatus.DISPATCHED for run in idle):
        transaction.announce(Topic.READY)  # there is room for others in their place
    follow_up_ended(
        transaction, [msgspec.structs.replace(run, status=RunStatus.CANCELLED) for run in idle]
    )
    return len(idle) + len(running)


def skip_runs(transaction: Transaction, runs: Sequence[TaskRun], reason: str) -> None:
    """Account for pending runs that are never to start."""
    transaction.change_runs(
        [
            move(
                run,
                RunStatus.SKIPPED,
                transaction.now,
                EventType.RUN_SKIPPED,
                {"reason": reason},
                reason=reason,
                hold=None,
                completed_at=transaction.now,
            )
            for run in runs
        ]
    )
    release_dependents(
        transaction, [msgspec.structs.replace(run, status=RunStatus.SKIPPED) for run in runs]
    )
    transaction.announce(Topic.EVENTS)
