"""What of a flow run is run again, in which versions of its tasks, and what it waits for."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.application.task_graph import TaskGraph, maps_among
from tidemill.domain.dependency import Edge
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task
from tidemill.errors import Conflict
from tidemill.foundation.store import RunEnd, TaskEdge, Transaction

_ENDED_BADLY = frozenset({FlowStatus.FAILED, FlowStatus.CANCELLED})
_NEVER = RunEnd(None, RunStatus.CANCELLED)


class OldFlowRun:
    """The flow run that is retried, and what became of its tasks. Raises Conflict."""

    def __init__(self, transaction: Transaction, flow_run: FlowRun) -> None:
        if flow_run.status is FlowStatus.SUCCEEDED:
            raise Conflict(f"flow run {flow_run.id} succeeded; trigger its task for another one")
        if flow_run.status not in _ENDED_BADLY:
            raise Conflict(f"flow run {flow_run.id} has not ended; wait for its end or cancel it")
        self.flow_run = flow_run
        members = [each.id for each in transaction.members(flow_run.id)]
        carried = [each.id for each in transaction.carried_runs(flow_run.id)]
        if len(members) < flow_run.total:
            raise Conflict(f"part of flow run {flow_run.id} was pruned; trigger its task anew")
        self.edges: Sequence[Edge] = transaction.edges_into(members)
        runs = transaction.runs([*members, *carried])
        self.done = [run.id for run in runs.values() if run.status is RunStatus.SUCCEEDED]
        self.undone = [run for run in runs.values() if run.status is not RunStatus.SUCCEEDED]
        self.task_of = {run.id: run.task_id for run in runs.values()}
        definitions = transaction.definitions(
            {(run.task_id, run.task_version) for run in self.undone}
        )
        self.said = {run.task_id: definitions[run.task_id, run.task_version] for run in self.undone}
        self._runs = sorted(runs.values(), key=lambda run: (run.shard_index or 0, run.id))

    def root_waited(self) -> bool:
        """Whether the root waited for upstream tasks: whoever asks by hand is not kept waiting."""
        root = self.flow_run.root_task_id
        return any(self.task_of[edge.downstream_run_id] == root for edge in self.edges)

    def root_parameters(self) -> dict[str, Any]:
        """What the flow run was asked for with."""
        root = self.flow_run.root_task_id
        return next((run.parameters for run in self._runs if run.task_id == root), {})

    def counting(self, again: Mapping[int, int]) -> dict[int, list[int]]:
        """The runs that count for each task, in the order of its parts: what succeeded, and the
        new runs of what did not (old run id → new one).

        A task of which something did not succeed and is not run again has none.
        """
        found: dict[int, list[int]] = {}
        for run in self._runs:
            found.setdefault(run.task_id, []).append(again.get(run.id, run.id))
        lacking = {run.task_id for run in self.undone if run.id not in again}
        return {task_id: runs for task_id, runs in found.items() if task_id not in lacking}


class Plan(msgspec.Struct, frozen=True):
    """What is run again: the tasks, as they are to be, what they wait for, and how long it may
    take, in seconds. `fates` are what upstream tasks that are no more count as."""

    tasks: Mapping[int, Task]
    edges: Collection[TaskEdge]
    deadline_seconds: float | None
    fates: Mapping[tuple[int, int], RunEnd]  # by downstream and upstream task
    maps: Collection[tuple[int, int]]  # the same, of those that are mapped over the other


def plan_of_then(transaction: Transaction, old: OldFlowRun) -> Plan:
    """In the versions of then, which wait for one another as then; without what was deleted."""
    there = transaction.tasks({run.task_id for run in old.undone})
    tasks = {
        run.task_id: msgspec.structs.replace(
            there[run.task_id], version=run.task_version, definition=old.said[run.task_id]
        )
        for run in old.undone
        if run.task_id in there
    }
    upstream = {edge.upstream_task_id for edge in old.edges}
    gone = upstream - transaction.tasks_in_force(upstream).keys()
    edges: dict[TaskEdge, None] = {}
    fates: dict[tuple[int, int], RunEnd] = {}
    for edge in old.edges:
        task_id = old.task_of[edge.downstream_run_id]
        edges[TaskEdge(task_id, edge.upstream_task_id, edge.condition)] = None
        if edge.upstream_task_id in gone:
            fates[task_id, edge.upstream_task_id] = _fate(old, edge)
    maps = {
        (old.task_of[edge.downstream_run_id], edge.upstream_task_id)
        for edge in old.edges
        if edge.is_mapped_over
    }
    return Plan(tasks, edges, old.flow_run.deadline_seconds, fates, maps)


def _fate(old: OldFlowRun, edge: Edge) -> RunEnd:
    """What a run of a deleted task outside the flow run came to, still counts."""
    is_outside = edge.upstream_run_id is not None and edge.upstream_run_id not in old.task_of
    if edge.ended_as is None or not is_outside:
        return _NEVER
    return RunEnd(edge.upstream_run_id, edge.ended_as)


def plan_of_now(transaction: Transaction, old: OldFlowRun) -> Plan:
    """In the versions in force, with what hangs on them by now.

    Raises Conflict where one that did not succeed was deleted.
    """
    undone = {run.task_id for run in old.undone}
    bases = undone | {old.flow_run.root_task_id}
    edges = transaction.task_edges_below(bases)
    wanted = bases.union(TaskGraph(edges).below(bases)) - old.counting({}).keys()
    tasks = transaction.tasks(wanted)
    deleted = sorted(old.said[task_id].name for task_id in undone - tasks.keys())
    if deleted:
        raise Conflict(
            f"these tasks of flow run {old.flow_run.id} were deleted: {', '.join(deleted)}; define "
            "them again and trigger anew, or retry with the versions of `then`, which leaves "
            "them out"
        )
    root = tasks.get(old.flow_run.root_task_id) or transaction.task(old.flow_run.root_task_id)
    deadline_seconds = (
        root.definition.flow_deadline_seconds if root else old.flow_run.deadline_seconds
    )
    graph = TaskGraph(edges)
    named = {**tasks, **transaction.tasks_in_force(graph.task_ids - tasks.keys())}
    return Plan(tasks, edges, deadline_seconds, {}, maps_among(named))
