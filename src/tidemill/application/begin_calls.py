"""Ready runs that call tasks begin: what they call is made, and they wait for its end.

    ready ─► dispatched ─► running, held by nobody but the database ─► a flow run of the called task

All in one transaction, so that none waits for what is not there, and nothing is called twice.
"""

from collections.abc import Mapping, Sequence

import msgspec

from tidemill.application.claim_runs import with_context
from tidemill.application.heed_limits import hold_back, within_limits
from tidemill.application.open_flow_runs import Call, insert_called
from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.time_out_runs import time_out_runs
from tidemill.application.trigger_runs import TaskName, find_tasks
from tidemill.domain.calls import call_ends_at
from tidemill.domain.deadline import overdue_reason
from tidemill.domain.new_run import new_run
from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.task import CALL, Task
from tidemill.domain.task_run import CALLER, TaskRun, Trigger
from tidemill.domain.template import TemplateError, facts_of, render
from tidemill.foundation.control_plane import AttemptReport, ClaimedRun, execution_of
from tidemill.foundation.store import Transaction

_AT_ONCE = 100  # each makes a flow run, of as many runs as there may be


def begin_calls(transaction: Transaction, lane: str, limit: int) -> bool:
    """Begin up to `limit` ready runs of a lane whose tasks call others; whether there may be more
    to do at once, such as to dispatch what was called."""
    ready = transaction.runs_to_place(lane, min(limit, _AT_ONCE))
    overdue = [run for run in ready if overdue_reason(run, transaction.now)]
    if overdue:
        time_out_runs(transaction, overdue)  # by which others of these may have ended, too
        return True
    goes, kept = within_limits(transaction, ready)
    hold_back(transaction, kept)
    if goes:
        _call(transaction, _begin(transaction, goes))
    return bool(ready)


def _begin(transaction: Transaction, runs: Sequence[TaskRun]) -> list[ClaimedRun]:
    """They are claimed as by a worker, without a lease: it could not be lost."""
    transaction.dispatch(runs)
    by_id = {run.id: run for run in transaction.claim([run.id for run in runs], CALLER, None)}
    return with_context(transaction, [by_id[run.id] for run in runs])


class _Refusal(msgspec.Struct, frozen=True):
    """Why an attempt that was to call a task has failed at once."""

    caller: ClaimedRun
    outcome: Outcome


def _call(transaction: Transaction, callers: Sequence[ClaimedRun]) -> None:
    names = [(each.run.namespace, each.definition.command) for each in callers]
    tasks = find_tasks(transaction, names)
    calls: list[Call] = []
    refusals: list[_Refusal] = []
    for name, caller in zip(names, callers, strict=True):
        found = _called(transaction, caller, name, tasks)
        if isinstance(found, Call):
            calls.append(found)
        else:
            refusals.append(_Refusal(caller, found))
    if calls:
        insert_called(transaction, {task.id: task for task in tasks.values()}, calls)
        transaction.note_last_run({call.run.task_id for call in calls})
    if refusals:
        record_outcomes(transaction, [_report(each) for each in refusals])


def _called(
    transaction: Transaction,
    caller: ClaimedRun,
    name: tuple[str, str],
    tasks: Mapping[TaskName, Task],
) -> Call | Outcome:
    """What a run calls, or how its attempt ends for lack of that."""
    task = tasks.get(name)
    if task is None:
        return failure("task_deleted", f"there is no task {name[1]!r} any more")
    try:
        parameters = render(CALL, caller.definition.arguments, facts_of(execution_of(caller)))
    except TemplateError as error:
        return failure("template", str(error))
    run = _run_of(transaction, task, caller, parameters)
    return Call(run, caller.run, call_ends_at(caller.run, transaction.now))


def _run_of(
    transaction: Transaction, task: Task, caller: ClaimedRun, parameters: dict[str, object]
) -> TaskRun:
    run = caller.run
    return new_run(
        task,
        Trigger.CALL,
        f"call:{run.id}:{run.fence}",
        run.scheduled_for,
        transaction.now,
        not_before=transaction.now,
        parameters=parameters,
        traceparent=run.traceparent,
    )


def _report(refusal: _Refusal) -> AttemptReport:
    run = refusal.caller.run
    return AttemptReport(run.id, run.fence, "itself", refusal.outcome, run.log_seq)
