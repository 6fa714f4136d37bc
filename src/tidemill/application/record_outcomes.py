"""An attempt ended: its outcome becomes the run's status, or another attempt is planned."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.application.follow_up import follow_up_attempts, follow_up_ended
from tidemill.application.tell_stale import tell_stale
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
    Success,
    ended_attempt,
    move,
)
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

EXECUTOR_LOST = "executor_lost"  # the attempt fell with another's process; it costs nothing


class Recorded(msgspec.Struct, frozen=True):
    """What became of the reports."""

    accepted: int
    stale: int


def record_outcomes(transaction: Transaction, reports: Sequence[AttemptReport]) -> Recorded:
    """Write how these attempts ended. A report with an old fence changes nothing but is told.

    What succeeded asks for no decision and is written by the store; the rest goes by the rules.
    """
    succeeded, waited_for = transaction.record_successes(_successes_of(reports))
    follow_up_ended(transaction, succeeded, waited_for)
    changes, stale = _record_by_rule(transaction, _without(succeeded, reports))
    tell_stale(transaction, [(report.run_id, report.fence) for report in stale])
    transaction.announce(Topic.EVENTS)
    if any(change.changes["status"] is RunStatus.RETRYING for change in changes):
        transaction.announce(Topic.READY)
    return Recorded(len(succeeded) + len(changes), len(stale))


def _successes_of(reports: Sequence[AttemptReport]) -> list[Success]:
    found: dict[int, Success] = {}
    for report in reports:
        outcome = report.outcome
        if outcome.succeeded:
            success = Success(
                report.run_id, report.fence, outcome.result, outcome.exit_code, report.log_seq
            )
            found.setdefault(report.run_id, success)
    return list(found.values())


def _without(succeeded: Sequence[RunHead], reports: Sequence[AttemptReport]) -> list[AttemptReport]:
    """The reports that are still to be heeded; what is said once more is among them."""
    heeded = {(run.id, run.fence) for run in succeeded}
    left = []
    for report in reports:
        said = (report.run_id, report.fence)
        if report.outcome.succeeded and said in heeded:
            heeded.remove(said)
        else:
            left.append(report)
    return left


def _record_by_rule(
    transaction: Transaction, reports: Sequence[AttemptReport]
) -> tuple[list[RunChange], list[AttemptReport]]:
    """What was changed, and the reports that came too late."""
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
    follow_up_attempts(transaction, changes)
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
