"""A task that others depend on fires: all that hang on it get a run in the same flow run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.application.pace import paced
from tidemill.application.release_dependents import count_outside_edges, release_dependents
from tidemill.domain.dependency import Edge, Rule, Tally
from tidemill.domain.flow_run import FlowRun, new_flow_run_id
from tidemill.domain.new_run import dependent_run, waiting_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import TaskEdge, Transaction

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn
_WAITS = frozenset({Trigger.SCHEDULE, Trigger.BACKFILL})


def insert_roots(
    transaction: Transaction, tasks: Mapping[int, Task], runs: Sequence[TaskRun]
) -> list[TaskRun]:
    """Store new runs, and the flow runs that those of connected tasks open.

    A firing waits for the upstream tasks of its own task. Whoever asks by hand is not kept waiting.
    """
    created = transaction.insert_runs(
        [_in_flow_run(run, tasks[run.task_id], transaction.now) for run in runs]
    )
    roots = [run for run in created if run.flow_run_id is not None]
    if roots:
        _open(transaction, tasks, roots)
    return created


def _in_flow_run(run: TaskRun, task: Task, now: datetime) -> TaskRun:
    waits = bool(task.definition.dependencies) and run.trigger in _WAITS
    if run.status is RunStatus.SKIPPED or not (waits or task.has_dependents):
        return run
    named = msgspec.structs.replace(run, flow_run_id=new_flow_run_id(now))
    return waiting_run(named) if waits else named


class _Placed(msgspec.Struct, frozen=True):
    """As much of a new run as its place in a flow run depends on."""

    id: int
    task_id: int
    flow_run_id: str
    waits: bool


def _open(transaction: Transaction, tasks: Mapping[int, Task], roots: Sequence[TaskRun]) -> None:
    below = transaction.task_edges_below({root.task_id for root in roots})
    graph = _Graph(paced(transaction, below))
    rules = {task.id: task.definition.trigger_rule for task in tasks.values()}
    in_flow = {root.flow_run_id: [_placed(root)] for root in roots}
    skipped: list[TaskRun] = []
    places = ((root, task_id) for root in roots for task_id in graph.below(root.task_id))
    for batch in in_batches(places, _RUNS_AT_ONCE):
        known = transaction.tasks_in_force({task_id for _, task_id in batch})
        rules |= {task.id: task.definition.trigger_rule for task in known.values()}
        for run in transaction.insert_runs(
            [dependent_run(known[task_id], root, transaction.now) for root, task_id in batch]
        ):
            in_flow[run.flow_run_id].append(_placed(run))
            if run.status is RunStatus.SKIPPED:
                skipped.append(run)
    edges = list(
        paced(
            transaction,
            (edge for runs in in_flow.values() for edge in graph.edges_among(runs)),
        )
    )
    rule_of = {
        run.id: rules[run.task_id]
        for run in paced(transaction, (run for runs in in_flow.values() for run in runs))
    }
    transaction.open_flow_runs(
        [_flow_run(root, len(in_flow[root.flow_run_id]), transaction.now) for root in roots],
        _tallies(edges, rule_of),
    )
    transaction.add_edges(edges)
    release_dependents(transaction, skipped)
    if any(edge.upstream_run_id is None for edge in edges):
        count_outside_edges(transaction)


def _placed(run: TaskRun) -> _Placed:
    assert run.flow_run_id is not None
    return _Placed(run.id, run.task_id, run.flow_run_id, run.status is RunStatus.WAITING)


class _Graph:
    """Tasks that depend on one another."""

    def __init__(self, edges: Iterable[TaskEdge]) -> None:
        self._upstream: dict[int, list[TaskEdge]] = {}
        self._downstream: dict[int, list[int]] = {}
        for edge in edges:
            self._upstream.setdefault(edge.task_id, []).append(edge)
            self._downstream.setdefault(edge.upstream_task_id, []).append(edge.task_id)

    def below(self, root: int) -> list[int]:
        """The tasks that can be reached from one, the near ones first."""
        found = {root: None}
        work = [root]
        for task_id in work:
            fresh = [each for each in self._downstream.get(task_id, ()) if each not in found]
            found |= dict.fromkeys(fresh)
            work += fresh
        return work[1:]

    def edges_among(self, runs: Sequence[_Placed]) -> Iterator[Edge]:
        """What each waiting run of a flow run waits for, in it or outside."""
        run_of = {run.task_id: run.id for run in runs}
        return (
            Edge(
                run.id,
                edge.upstream_task_id,
                0,
                run_of.get(edge.upstream_task_id),
                run.flow_run_id,
                edge.condition,
            )
            for run in runs
            if run.waits
            for edge in self._upstream.get(run.task_id, ())
        )


def _flow_run(root: TaskRun, total: int, now: datetime) -> FlowRun:
    assert root.flow_run_id is not None
    return FlowRun(
        id=root.flow_run_id,
        namespace=root.namespace,
        root_task_id=root.task_id,
        root_run_id=root.id,
        trigger=root.trigger,
        scheduled_for=root.scheduled_for,
        total=total,
        unfinished=total,
        created_at=now,
    )


def _tallies(edges: Sequence[Edge], rules: Mapping[int, Rule]) -> list[Tally]:
    totals: dict[int, int] = {}
    for edge in edges:
        totals[edge.downstream_run_id] = totals.get(edge.downstream_run_id, 0) + 1
    return [Tally(run_id, rules[run_id], total) for run_id, total in totals.items()]
