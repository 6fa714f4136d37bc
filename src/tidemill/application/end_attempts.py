"""An attempt did not simply succeed: how its run goes on by its task's rules, or ends."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.domain.deadline import queue_deadline
from tidemill.domain.events import EventType
from tidemill.domain.lease import is_held
from tidemill.domain.outcome import Outcome
from tidemill.domain.retry import delay_before_retry, may_go_on, may_retry
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import (
    AttemptOutcome,
    Hold,
    RunAttempt,
    RunChange,
    RunHead,
    ended_attempt,
    move,
)
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.store import Transaction

EXECUTOR_LOST = "executor_lost"  # the attempt fell with another's process; it costs nothing


def end_by_rule(
    transaction: Transaction, reports: Sequence[AttemptReport]
) -> tuple[list[RunChange], list[AttemptReport]]:
    """Write how these attempts ended; what was changed, and the reports that came too late."""
    if not reports:
        return [], []
    runs = transaction.run_heads([report.run_id for report in reports])
    definitions = transaction.definitions({(r.task_id, r.task_version) for r in runs.values()})
    changes, ended, stale = [], [], []
    for report in reports:
        run = runs.get(report.run_id)
        if run is None or not is_held(run, report.fence):
            stale.append(report)
            continue
        definition = definitions[run.task_id, run.task_version]
        change, attempt = _ending(run, definition, report, transaction.now)
        changes.append(change)
        ended.append(attempt)
        del runs[report.run_id]  # whoever says it once more comes too late
    transaction.change_runs(changes)
    transaction.close_attempts(ended)
    return changes, stale


def _ending(
    run: RunHead, definition: TaskDefinition, report: AttemptReport, now: datetime
) -> tuple[RunChange, RunAttempt]:
    if run.status is RunStatus.CANCELLING:
        reason = run.reason or "cancelled_by_user"
        how = AttemptOutcome.SUCCEEDED if report.outcome.succeeded else AttemptOutcome.CANCELLED
        return _final(run, report, RunStatus.CANCELLED, reason, how, now)
    if report.cause == "drain" or report.outcome.reason == EXECUTOR_LOST:
        if may_go_on(run):
            return _handed_back(run, report, now)
        how = AttemptOutcome.HANDED_BACK
        return _final(run, report, RunStatus.FAILED, "task_deleted", how, now)
    if report.cause == "deadline":
        return _final(run, report, RunStatus.TIMED_OUT, "deadline", AttemptOutcome.TIMED_OUT, now)
    failed = report.outcome
    how, status = AttemptOutcome.FAILED, RunStatus.FAILED
    if report.cause == "timeout":
        failed = msgspec.structs.replace(failed, reason="execution_timeout")
        how, status = AttemptOutcome.TIMED_OUT, RunStatus.TIMED_OUT
    if may_retry(run, definition.retry, failed):
        return _retrying(run, definition, report, failed, how, now)
    return _final(run, report, status, failed.reason, how, now)


def _final(
    run: RunHead,
    report: AttemptReport,
    status: RunStatus,
    reason: str | None,
    how: AttemptOutcome,
    now: datetime,
) -> tuple[RunChange, RunAttempt]:
    event = EventType.RUN_CANCELLED if status is RunStatus.CANCELLED else EventType.RUN_FINISHED
    outcome = report.outcome
    change = move(
        run,
        status,
        now,
        event,
        {
            "attempt": run.attempt,
            "reason": reason,
            "exit_code": outcome.exit_code,
            "took_seconds": (now - run.started_at).total_seconds() if run.started_at else None,
        },
        reason=reason,
        result=outcome.result if status is RunStatus.SUCCEEDED else None,
        error_message=outcome.error_message,
        exit_code=outcome.exit_code,
        lease_expires_at=None,
        log_seq=report.log_seq,
        completed_at=now,
    )
    return change, _closing(run, outcome, how, now)


def _retrying(
    run: RunHead,
    definition: TaskDefinition,
    report: AttemptReport,
    failed: Outcome,
    how: AttemptOutcome,
    now: datetime,
) -> tuple[RunChange, RunAttempt]:
    not_before = now + delay_before_retry(run, definition.retry)
    change = move(
        run,
        RunStatus.RETRYING,
        now,
        EventType.RETRY_PLANNED,
        {"attempt": run.attempt, "reason": failed.reason, "not_before": not_before.isoformat()},
        reason=failed.reason,
        error_message=failed.error_message,
        exit_code=failed.exit_code,
        hold=Hold.TIME,
        not_before=not_before,
        lease_expires_at=None,
        dispatched_at=None,
        started_at=None,
        log_seq=report.log_seq,
        queue_deadline_at=queue_deadline(run, not_before),
    )
    return change, _closing(run, failed, how, now)


def _handed_back(
    run: RunHead, report: AttemptReport, now: datetime
) -> tuple[RunChange, RunAttempt]:
    change = move(
        run,
        RunStatus.RETRYING,
        now,
        EventType.RETRY_PLANNED,
        {"attempt": run.attempt, "reason": "handed_back", "not_before": now.isoformat()},
        reason="handed_back",
        hold=Hold.TIME,
        not_before=now,
        lease_expires_at=None,
        dispatched_at=None,
        started_at=None,
        hand_backs=run.hand_backs + 1,
        log_seq=report.log_seq,
        queue_deadline_at=queue_deadline(run, now),
    )
    return change, _closing(run, report.outcome, AttemptOutcome.HANDED_BACK, now)


def _closing(run: RunHead, outcome: Outcome, how: AttemptOutcome, now: datetime) -> RunAttempt:
    return ended_attempt(run, how, now, outcome.exit_code, outcome.error_message)
