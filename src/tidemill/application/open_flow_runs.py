"""A task that others depend on fires: all that hang on it get a run in the same flow run."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.application.release_dependents import count_outside_edges, release_dependents
from tidemill.domain.dependency import Edge, Rule, Tally
from tidemill.domain.flow_run import FlowRun, new_flow_run_id
from tidemill.domain.new_run import dependent_run, waiting_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task, parse_task_key
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.foundation.store import TaskEdge, Transaction

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


def _open(transaction: Transaction, tasks: Mapping[int, Task], roots: Sequence[TaskRun]) -> None:
    graph = _Graph(transaction.task_edges_below({root.task_id for root in roots}))
    below = {root.id: graph.below(root.task_id) for root in roots}
    known = {**tasks, **transaction.tasks_in_force(graph.task_ids - tasks.keys())}
    dependents = transaction.insert_runs(
        [
            dependent_run(known[task_id], root, transaction.now)
            for root in roots
            for task_id in below[root.id]
        ]
    )
    in_flow: dict[str, list[TaskRun]] = {}
    for run in [*roots, *dependents]:
        assert run.flow_run_id is not None
        in_flow.setdefault(run.flow_run_id, []).append(run)
    edges = [edge for runs in in_flow.values() for edge in graph.edges_among(runs, known)]
    rules = {run.id: known[run.task_id].definition.trigger_rule for run in [*roots, *dependents]}
    transaction.open_flow_runs(
        [_flow_run(runs, transaction.now) for runs in in_flow.values()], _tallies(edges, rules)
    )
    transaction.add_edges(edges)
    release_dependents(transaction, [run for run in dependents if run.status is RunStatus.SKIPPED])
    if any(edge.upstream_run_id is None for edge in edges):
        count_outside_edges(transaction)


class _Graph:
    """Tasks that depend on one another."""

    def __init__(self, edges: Sequence[TaskEdge]) -> None:
        self._upstream: dict[int, list[TaskEdge]] = {}
        self._downstream: dict[int, list[int]] = {}
        for edge in edges:
            self._upstream.setdefault(edge.task_id, []).append(edge)
            self._downstream.setdefault(edge.upstream_task_id, []).append(edge.task_id)

    @property
    def task_ids(self) -> set[int]:
        """All of them, those outside the flow runs too."""
        return {*self._upstream, *self._downstream}

    def below(self, root: int) -> list[int]:
        """The tasks that can be reached from one, the near ones first."""
        found = {root: None}
        work = [root]
        for task_id in work:
            fresh = [each for each in self._downstream.get(task_id, ()) if each not in found]
            found |= dict.fromkeys(fresh)
            work += fresh
        return work[1:]

    def edges_among(self, runs: Sequence[TaskRun], known: Mapping[int, Task]) -> list[Edge]:
        """What each waiting run of a flow run waits for, in it or outside."""
        run_of = {run.task_id: run.id for run in runs}
        return [
            Edge(
                run.id,
                edge.upstream_task_id,
                0,
                run_of.get(edge.upstream_task_id),
                run.flow_run_id,
                edge.condition,
                is_mapped_over=_is_mapped_over(edge, known),
            )
            for run in runs
            if run.status is RunStatus.WAITING and run.flow_run_id is not None
            for edge in self._upstream.get(run.task_id, ())
        ]


def _is_mapped_over(edge: TaskEdge, known: Mapping[int, Task]) -> bool:
    said, upstream = known[edge.task_id].definition.map_over, known.get(edge.upstream_task_id)
    if said is None or upstream is None:
        return False
    return parse_task_key(said.task) in (upstream.id, upstream.definition.name)


def _flow_run(runs: Sequence[TaskRun], now: datetime) -> FlowRun:
    root = runs[0]
    assert root.flow_run_id is not None
    return FlowRun(
        id=root.flow_run_id,
        namespace=root.namespace,
        root_task_id=root.task_id,
        root_run_id=root.id,
        trigger=root.trigger,
        scheduled_for=root.scheduled_for,
        total=len(runs),
        unfinished=len(runs),
        created_at=now,
    )


def _tallies(edges: Sequence[Edge], rules: Mapping[int, Rule]) -> list[Tally]:
    totals: dict[int, int] = {}
    for edge in edges:
        totals[edge.downstream_run_id] = totals.get(edge.downstream_run_id, 0) + 1
    return [Tally(run_id, rules[run_id], total) for run_id, total in totals.items()]
