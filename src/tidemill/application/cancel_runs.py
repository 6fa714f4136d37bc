"""Runs are ended before their time: at once where nothing runs, else by their worker, or with what
they called."""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from tidemill.application.follow_up import follow_up_ended
from tidemill.application.release_dependents import release_dependents
from tidemill.domain.events import EventType
from tidemill.domain.run_status import NOT_STARTED, RunStatus
from tidemill.domain.task_run import CALLER, RunChange, RunHead, TaskRun, cancelled, move
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn


def cancel_flow_run(transaction: Transaction, flow_run_id: str, reason: str) -> int:
    """Cancel the runs of a flow run that have not ended, and what they called; how many of them
    were changed."""
    return cancel_runs(transaction, _unfinished(transaction, [flow_run_id]), reason)


def _unfinished(transaction: Transaction, flow_run_ids: Collection[str]) -> list[RunHead]:
    """The runs of these flow runs that have not ended, locked."""
    transaction.flow_runs(flow_run_ids)  # before their runs, as by whoever counts in them
    unfinished = transaction.unfinished_members(flow_run_ids)
    return [
        run
        for batch in in_batches(unfinished, _RUNS_AT_ONCE)
        for run in transaction.run_heads(batch).values()
    ]


def cancel_runs(transaction: Transaction, runs: Sequence[RunHead], reason: str) -> int:
    """Cancel those of `runs`, locked, that have not ended; how many were changed.

    What they called, and wait for, is cancelled as well, and so on downwards.
    """
    running = [run for run in runs if run.status is RunStatus.RUNNING]
    changed = _cancel_all(transaction, runs, reason)
    while callers := [run.id for run in running if run.worker_id == CALLER]:
        called = _unfinished(transaction, transaction.open_calls(callers))
        running = [run for run in called if run.status is RunStatus.RUNNING]
        _cancel_all(transaction, called, reason)
    return changed


def _cancel_all(transaction: Transaction, runs: Sequence[RunHead], reason: str) -> int:
    idle = [run for run in runs if run.status in NOT_STARTED]
    running = [run for run in runs if run.status is RunStatus.RUNNING]
    if not idle and not running:
        return 0
    for batch in in_batches([*idle, *running], _RUNS_AT_ONCE):
        transaction.change_runs([_cancel(run, reason, transaction.now) for run in batch])
    transaction.announce(Topic.EVENTS)
    if running:
        transaction.announce(Topic.LEASES)
    if any(run.status is RunStatus.DISPATCHED for run in idle):
        transaction.announce(Topic.READY)  # there is room for others in their place
    follow_up_ended(
        transaction, [msgspec.structs.replace(run, status=RunStatus.CANCELLED) for run in idle]
    )
    return len(idle) + len(running)


def _cancel(run: RunHead, reason: str, now: datetime) -> RunChange:
    if run.status in NOT_STARTED:
        return cancelled(run, now, reason)
    return move(
        run,
        RunStatus.CANCELLING,
        now,
        EventType.CANCEL_REQUESTED,
        {"reason": reason},
        reason=reason,
    )


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
