"""A flow run that did not succeed is run again from where it failed, as another flow run.

runs that succeeded ─► carried over: they count, and are not run again
all others ──────────► a new run each, which waits for what it depends on
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import msgspec

from tidemill.application.pace import paced
from tidemill.application.plan_retry import OldFlowRun, Plan, plan_of_now, plan_of_then
from tidemill.application.release_dependents import (
    count_carried_over,
    count_from_outside,
    count_outside_edges,
    release_dependents,
)
from tidemill.application.retry_runs import same_part
from tidemill.application.task_graph import TaskGraph, placed, tallies_of
from tidemill.domain.deadline import earlier
from tidemill.domain.dependency import Edge
from tidemill.domain.flow_run import FlowRun, begun, new_flow_run_id
from tidemill.domain.mapping import bound_with_others
from tidemill.domain.new_run import new_run, paused_run, waiting_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, Task, TaskDefinition, TaskStatus
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import Conflict
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

Versions = Literal["then", "now"]

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn


def retry_flow_run(
    transaction: Transaction,
    flow_run: FlowRun,
    versions: Versions,
    traceparent: str | None = None,
) -> FlowRun:
    """Run again what did not succeed in a flow run; the new flow run, linked to it.

    It is for the same fire time. Of `then`, the tasks are in the versions and depend on one another
    as they did; a task that was deleted since gets no run, and what needs it is skipped. Of `now`,
    both are as they stand, and a task that came to hang on them gets a run too. Of a run that was
    split, the parts that did not succeed are run again, each the same part.

    Raises Conflict where the flow run has not ended or succeeded, part of it was pruned, nothing of
    it would run, or a task that is to run as it is now was deleted.
    """
    old = OldFlowRun(transaction, flow_run)
    plan = plan_of_then(transaction, old) if versions == "then" else plan_of_now(transaction, old)
    new = _open(transaction, old, plan, traceparent)
    if not new.unfinished:
        raise Conflict(
            f"nothing of flow run {flow_run.id} would run again: its tasks that did not succeed "
            "are paused or deleted, or wait for such; resume them, or trigger its first task anew"
        )
    transaction.announce(Topic.READY, Topic.EVENTS)
    return new


def _open(
    transaction: Transaction, old: OldFlowRun, plan: Plan, traceparent: str | None
) -> FlowRun:
    """Store a flow run with all that belongs to it, and count what counts already."""
    graph = TaskGraph(plan.edges)
    new = _flow_run(old.flow_run, plan, transaction)
    again = [run for run in old.undone if run.task_id in plan.tasks]
    joining = plan.tasks.keys() - {run.task_id for run in again}
    waiting = {task_id for task_id in plan.tasks if graph.has_upstream(task_id)}
    if not old.root_waited():
        waiting.discard(new.root_task_id)
    made = chain(
        (
            _again(plan.tasks[run.task_id], run, old.said[run.task_id], new, traceparent)
            for run in again
        ),
        (
            _first(plan.tasks[task_id], new, old.asked_with, traceparent)
            for task_id in sorted(joining)
        ),
    )
    runs: list[TaskRun] = []
    for batch in in_batches(made, _RUNS_AT_ONCE):
        runs += transaction.insert_runs(
            [_placed(run, plan.tasks[run.task_id], new, run.task_id in waiting) for run in batch]
        )
    counting = old.counting({run.retry_of: run.id for run in runs if run.retry_of is not None})
    counting |= {run.task_id: [run.id] for run in runs if run.task_id in joining}
    places = [placed(run) for run in runs]
    edges = list(paced(transaction, graph.edges_into(places, counting, plan.maps)))
    rules = {task_id: task.definition.trigger_rule for task_id, task in plan.tasks.items()}
    first = counting.get(new.root_task_id, [new.root_run_id])[0]
    transaction.open_flow_runs(
        [msgspec.structs.replace(new, root_run_id=first, total=len(runs), unfinished=len(runs))],
        tallies_of(places, edges, rules),
    )
    transaction.carry_over(new.id, old.done)
    transaction.add_edges(edges)
    _count(transaction, new, old, plan, runs, edges)
    return transaction.flow_runs([new.id])[new.id]


def _flow_run(old: FlowRun, plan: Plan, transaction: Transaction) -> FlowRun:
    now = transaction.now
    flow_run = FlowRun(
        id=new_flow_run_id(now),
        namespace=old.namespace,
        root_task_id=old.root_task_id,
        root_run_id=old.root_run_id,
        trigger=Trigger.RETRY,
        scheduled_for=old.scheduled_for,
        total=0,
        unfinished=0,
        created_at=now,
        retry_of=old.id,
        deadline_seconds=plan.deadline_seconds,
    )
    return begun(flow_run, now)


def _again(
    task: Task, run: TaskRun, said: TaskDefinition, flow_run: FlowRun, traceparent: str | None
) -> TaskRun:
    """What was asked for with the run itself, beside what its task `said`, is asked for again."""
    asked = next(each for each in Priority if each.level == run.priority)
    again = new_run(
        task,
        Trigger.RETRY,
        f"retry:{flow_run.id}:{run.id}",
        flow_run.scheduled_for,
        flow_run.created_at,
        not_before=flow_run.created_at,
        parameters=run.parameters,
        priority=None if asked is said.priority else asked,
        timeout_seconds=None
        if run.timeout_seconds == said.timeout_seconds
        else run.timeout_seconds,
        missed_count=run.missed_count,
        retry_of=run.id,
        traceparent=traceparent,
    )
    return same_part(run, again)


def _first(
    task: Task, flow_run: FlowRun, parameters: dict[str, Any], traceparent: str | None
) -> TaskRun:
    """The run of a task that had none in the flow run that is retried."""
    return new_run(
        task,
        Trigger.RETRY,
        f"retry:{flow_run.id}",
        flow_run.scheduled_for,
        flow_run.created_at,
        not_before=flow_run.created_at,
        parameters=parameters,
        traceparent=traceparent,
    )


def _placed(run: TaskRun, task: Task, flow_run: FlowRun, waits: bool) -> TaskRun:
    """The same run, in its flow run: of a task that is paused it is skipped, but for the first."""
    named = msgspec.structs.replace(
        run,
        flow_run_id=flow_run.id,
        deadline_at=earlier(run.deadline_at, flow_run.deadline_at),
    )
    if run.part_of is not None and task.definition.map_over is not None:
        named = bound_with_others(task.definition.map_over, named)
    if task.status is TaskStatus.PAUSED and task.id != flow_run.root_task_id:
        return paused_run(named, flow_run.created_at)
    return waiting_run(named) if waits else named


def _count(
    transaction: Transaction,
    flow_run: FlowRun,
    old: OldFlowRun,
    plan: Plan,
    runs: Sequence[TaskRun],
    edges: Sequence[Edge],
) -> None:
    release_dependents(transaction, [run for run in runs if run.status is RunStatus.SKIPPED])
    carried = set(old.done).intersection(edge.upstream_run_id for edge in edges)
    count_carried_over(transaction, flow_run.id, carried)
    outside = [edge for edge in edges if edge.upstream_run_id is None]
    task_of = {run.id: run.task_id for run in runs}
    fates = [
        (edge, plan.fates.get((task_of[edge.downstream_run_id], edge.upstream_task_id)))
        for edge in outside
    ]
    count_from_outside(transaction, [(edge, fate) for edge, fate in fates if fate is not None])
    if outside:
        count_outside_edges(transaction)
