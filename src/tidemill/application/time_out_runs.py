"""Runs that waited too long are not started any more."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.application.follow_up import follow_up_ended
from tidemill.domain.deadline import overdue_reason
from tidemill.domain.events import EventType
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunChange, TaskRun, move
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def time_out_runs(transaction: Transaction, runs: Sequence[TaskRun]) -> None:
    """End these overdue runs, which nobody holds, and let go on what waited for them."""
    if not runs:
        return
    transaction.change_runs([_timed_out(run, transaction.now) for run in runs])
    follow_up_ended(
        transaction, [msgspec.structs.replace(run, status=RunStatus.TIMED_OUT) for run in runs]
    )
    transaction.announce(Topic.EVENTS)


def _timed_out(run: TaskRun, now: datetime) -> RunChange:
    reason = overdue_reason(run, now)
    assert reason is not None
    return move(
        run,
        RunStatus.TIMED_OUT,
        now,
        EventType.RUN_FINISHED,
        {"reason": reason},
        reason=reason,
        hold=None,
        completed_at=now,
        error_message=f"{reason.replace('_', ' ')} passed before it could start",
    )
