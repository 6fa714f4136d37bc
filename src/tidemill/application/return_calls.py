"""Called flow runs ended: so do the attempts that waited for them, with what they came to."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.application.end_attempts import end_by_rule
from tidemill.domain.calls import LastRun, is_worth_reading, outcome_of_call
from tidemill.domain.deadline import seconds_after
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import Outcome
from tidemill.domain.run_status import FINAL, LEASED, RunStatus
from tidemill.domain.task_run import RunHead, Success, TaskRun
from tidemill.foundation.control_plane import AttemptReport, Cause
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Returned(msgspec.Struct, frozen=True):
    """What became of the runs that had called."""

    final: list[RunHead]  # as they are then
    retried: list[RunHead]  # as they were before


def return_calls(transaction: Transaction, called: Sequence[FlowRun]) -> Returned:
    """End the attempts that wait for these flow runs, each by the rule of any attempt.

    Of those that wait no longer, nothing is changed.
    """
    callers = _waiting_for(transaction, called)
    if not callers:
        return Returned([], [])
    outcomes = _outcomes_of(transaction, [each for each in called if each.id in callers])
    succeeded, _ = transaction.record_successes(
        [
            Success(run.id, run.fence, outcomes[id].result, None, run.log_seq)
            for id, run in callers.items()
            if outcomes[id].succeeded and run.status is RunStatus.RUNNING
        ]
    )
    heeded = {run.id for run in succeeded}
    changes, _ = end_by_rule(
        transaction,
        [
            _report(run, outcomes[id], transaction.now)
            for id, run in callers.items()
            if run.id not in heeded
        ],
    )
    transaction.announce(Topic.EVENTS)
    final = [change for change in changes if change.changes["status"] in FINAL]
    retried = [change.before for change in changes if change.changes["status"] not in FINAL]
    if retried:
        transaction.announce(Topic.READY)
    ended = [
        msgspec.structs.replace(change.before, status=change.changes["status"]) for change in final
    ]
    return Returned([*succeeded, *ended], retried)


def _waiting_for(transaction: Transaction, called: Sequence[FlowRun]) -> dict[str, TaskRun]:
    """By flow run, the run whose attempt waits for it, locked."""
    runs = transaction.runs({each.called_by for each in called if each.called_by is not None})
    return {
        each.id: run
        for each in called
        if (run := runs.get(each.called_by or 0)) is not None
        and run.status in LEASED
        and run.attempt == each.called_by_attempt
    }


def _outcomes_of(transaction: Transaction, called: Sequence[FlowRun]) -> dict[str, Outcome]:
    good = [each.id for each in called if each.status is FlowStatus.SUCCEEDED]
    last: dict[str, list[LastRun]] = {}
    for run in transaction.last_runs_of(good) if good else ():
        last.setdefault(run.flow_run_id, []).append(run)
    read = [run.run_id for runs in last.values() if is_worth_reading(runs) for run in runs]
    results: Mapping[int, object] = transaction.results(read) if read else {}
    return {each.id: outcome_of_call(each, last.get(each.id, []), results) for each in called}


def _report(run: TaskRun, outcome: Outcome, now: datetime) -> AttemptReport:
    return AttemptReport(run.id, run.fence, _cause_of(run, now), outcome, run.log_seq)


def _cause_of(run: TaskRun, now: datetime) -> Cause:
    """The flow run had until the first of these; what did not succeed by then came too late."""
    assert run.started_at is not None
    if run.deadline_at is not None and run.deadline_at <= now:
        return "deadline"
    ends_at = seconds_after(run.started_at, run.timeout_seconds)
    return "timeout" if ends_at is not None and ends_at <= now else "itself"
