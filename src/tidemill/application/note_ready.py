"""Runs were let go on: whoever dispatches them, or claims them at once, has to know."""

from collections.abc import Sequence

from tidemill.domain.task_run import Hold, RunChange, TaskRun
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def note_ready(
    transaction: Transaction, runs: Sequence[TaskRun], changes: Sequence[RunChange]
) -> None:
    """What lets runs go on: now, at an hour still to come, or once something else has ended."""
    for run, change in zip(runs, changes, strict=True):
        if change.changes["hold"] is None:
            transaction.readied[run.lane] += 1
        elif change.changes["hold"] is Hold.TIME:
            transaction.announce(Topic.READY)
