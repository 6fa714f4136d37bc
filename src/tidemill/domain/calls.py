"""A task that calls another one: its run waits for what that comes to, and no worker holds it.

arguments, filled in ─► parameters of the called run ─► its flow run ends ─► result, or a failure
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tidemill.domain.artifact import INLINE_BYTES
from tidemill.domain.deadline import earlier, seconds_after
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import Outcome, failure, success
from tidemill.domain.task import CALL, TaskDefinition, parse_task_key
from tidemill.domain.task_run import LeasedRun
from tidemill.domain.template import template_problems
from tidemill.errors import Problem

_READ_BYTES = 4 * INLINE_BYTES  # as they are kept: with spaces, in a database's own way


def call_problems(definition: TaskDefinition) -> list[Problem]:
    """What is wrong with a definition that calls a task, whatever other tasks there are."""
    if definition.called_task is None:
        return []
    problems = [*template_problems(CALL, definition.command, definition.arguments)]
    if parse_task_key(definition.called_task) is None:
        wrong = f"{definition.command!r} is no task: name it as `name:NAME`, or by its id"
        problems.append(Problem("/command", wrong))
    if not isinstance(definition.arguments, dict):
        wrong = "must be an object: the parameters of the task that is called"
        problems.append(Problem("/arguments", wrong))
    if definition.strategy is not None:
        wrong = "no worker is chosen for a run that calls a task: leave it out"
        problems.append(Problem("/strategy", wrong))
    if definition.worker_selector:
        wrong = "no worker takes a run that calls a task: leave it out"
        problems.append(Problem("/worker_selector", wrong))
    return problems


def call_ends_at(caller: LeasedRun, now: datetime) -> datetime | None:
    """Until when what a run calls `now` must have ended: its time limit, or its deadline."""
    return earlier(seconds_after(now, caller.timeout_seconds), caller.deadline_at)


class LastRun(msgspec.Struct, frozen=True):
    """A run of a flow run on which no other run in it depends; `is_part` of a run that was split or
    mapped, into `shard_total` parts. `result_bytes` is the size of its result, as it is kept."""

    flow_run_id: str
    run_id: int
    task_id: int
    task_name: str
    is_part: bool
    shard_total: int | None
    result_bytes: int


def is_worth_reading(last: Sequence[LastRun]) -> bool:
    """Whether their results together may be one, by their sizes as they are kept."""
    return sum(run.result_bytes for run in last) <= _READ_BYTES


def outcome_of_call(
    flow_run: FlowRun, last: Sequence[LastRun], results: Mapping[int, Any]
) -> Outcome:
    """How the attempt ends that waited for this flow run, which has ended.

    `last` are its last runs in their order, where it succeeded, and `results` what they returned,
    where that is worth reading. The result is that of the task that was called where others do not
    depend on it, and else those of the last tasks by their names; of parts it is a list.
    """
    if flow_run.status is not FlowStatus.SUCCEEDED:
        return failure("subflow_failed", f"{_told(flow_run)} {_END[flow_run.status]}")
    if is_worth_reading(last):
        result = _result_of_call(flow_run, last, results)
        if len(msgspec.json.encode(result)) <= INLINE_BYTES:
            return success(result)
    said = f"what {_told(flow_run)} returned is more than {INLINE_BYTES} bytes"
    return failure("result_too_large", said)


_END = {FlowStatus.FAILED: "failed", FlowStatus.CANCELLED: "was cancelled"}


def _told(flow_run: FlowRun) -> str:
    return f"flow run {flow_run.id}, which run {flow_run.root_run_id} began,"


def _result_of_call(flow_run: FlowRun, last: Sequence[LastRun], results: Mapping[int, Any]) -> Any:
    by_name: dict[str, Any] = {}
    for run in last:
        if not run.is_part:
            by_name[run.task_name] = results.get(run.run_id)
            continue
        parts = by_name.setdefault(run.task_name, [])
        if run.shard_total != 0:  # else there was nothing to be mapped over
            parts.append(results.get(run.run_id))
    is_alone = all(run.task_id == flow_run.root_task_id for run in last)
    return next(iter(by_name.values()), None) if is_alone else by_name
