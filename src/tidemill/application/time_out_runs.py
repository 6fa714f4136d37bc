"""Runs that waited too long are not started any more."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.application.follow_up import follow_up_ended
from tidemill.domain.deadline import overdue_reason
from tidemill.domain.events import EventType
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunChange, RunHead, TaskRun, move
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn


def time_out_flow_runs(transaction: Transaction, limit: int) -> int:
    """End all that waits of flow runs that are past their deadline, up to `limit` of them; how
    many runs that were.

    What runs is ended by its worker, which knows how much time was left when it began.
    """
    overdue = transaction.overdue_flow_runs(limit)
    runs = transaction.idle_runs_of(overdue) if overdue else []
    said = "the deadline of its flow run passed before it could start"
    _end(transaction, [(run, "deadline", said) for run in runs])
    return len(runs)


def time_out_runs(transaction: Transaction, runs: Sequence[TaskRun]) -> None:
    """End these overdue runs, which nobody holds, and let go on what waited for them."""
    overdue = []
    for run in runs:
        reason = overdue_reason(run, transaction.now)
        assert reason is not None
        overdue.append((run, reason, f"{reason.replace('_', ' ')} passed before it could start"))
    _end(transaction, overdue)


def _end(transaction: Transaction, overdue: Sequence[tuple[RunHead, str, str]]) -> None:
    """End these runs, each for a reason, in a word and in a sentence."""
    if not overdue:
        return
    for batch in in_batches(overdue, _RUNS_AT_ONCE):
        transaction.change_runs([_timed_out(*each, transaction.now) for each in batch])
    follow_up_ended(
        transaction,
        [msgspec.structs.replace(run, status=RunStatus.TIMED_OUT) for run, _, _ in overdue],
    )
    transaction.announce(Topic.EVENTS)


def _timed_out(run: RunHead, reason: str, said: str, now: datetime) -> RunChange:
    return move(
        run,
        RunStatus.TIMED_OUT,
        now,
        EventType.RUN_FINISHED,
        {"reason": reason},
        reason=reason,
        hold=None,
        completed_at=now,
        error_message=said,
    )
