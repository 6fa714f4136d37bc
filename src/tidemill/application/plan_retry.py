"""What of a flow run is run again, in which versions of its tasks, and what it waits for."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from tidemill.application.pace import paced
from tidemill.application.task_graph import KnownTasks, TaskGraph
from tidemill.domain.dependency import Edge
from tidemill.domain.flow_run import FlowRun, FlowStatus, Member
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task, TaskDefinition
from tidemill.domain.task_run import TaskRun
from tidemill.errors import Conflict
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import RunEnd, TaskEdge, Transaction

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn
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
        self.edges: list[Edge] = []
        self.done: list[int] = []
        self.undone: list[TaskRun] = []
        self.task_of: dict[int, int] = {}
        self.said: dict[int, TaskDefinition] = {}  # by the tasks of what is undone, then
        self.asked_with: dict[str, Any] = {}  # the parameters of its first run
        self._part_of_task: dict[int, int] = {}
        for members in _by_pages(partial(transaction.members, flow_run.id)):
            self._read(transaction, members)
            self.edges += transaction.edges_into(members)
        if len(self.task_of) < flow_run.total:
            raise Conflict(f"part of flow run {flow_run.id} was pruned; trigger its task anew")
        for carried in _by_pages(partial(transaction.carried_runs, flow_run.id)):
            self._read(transaction, carried)
        self._in_order = sorted(
            self.task_of, key=lambda run_id: (self._part_of_task[run_id], run_id)
        )

    def _read(self, transaction: Transaction, run_ids: Sequence[int]) -> None:
        runs = transaction.runs(run_ids).values()
        self.task_of |= {run.id: run.task_id for run in runs}
        for run in runs:
            if run.task_id == self.flow_run.root_task_id:
                self.asked_with = run.parameters
        self._part_of_task |= {run.id: run.shard_index or 0 for run in runs}
        self.done += [run.id for run in runs if run.status is RunStatus.SUCCEEDED]
        undone = [run for run in runs if run.status is not RunStatus.SUCCEEDED]
        self.undone += undone
        definitions = transaction.definitions({(run.task_id, run.task_version) for run in undone})
        self.said |= {run.task_id: definitions[run.task_id, run.task_version] for run in undone}

    def root_waited(self) -> bool:
        """Whether the root waited for upstream tasks: whoever asks by hand is not kept waiting."""
        root = self.flow_run.root_task_id
        return any(self.task_of[edge.downstream_run_id] == root for edge in self.edges)

    def counting(self, again: Mapping[int, int]) -> dict[int, list[int]]:
        """The runs that count for each task, in the order of its parts: what succeeded, and the
        new runs of what did not (old run id → new one).

        A task of which something did not succeed and is not run again has none.
        """
        found: dict[int, list[int]] = {}
        for run_id in self._in_order:
            found.setdefault(self.task_of[run_id], []).append(again.get(run_id, run_id))
        lacking = {run.task_id for run in self.undone if run.id not in again}
        return {task_id: runs for task_id, runs in found.items() if task_id not in lacking}


def _by_pages(read: Callable[[int, int], Sequence[Member]]) -> Iterator[list[int]]:
    """The ids of all that `read` finds, a bounded number at a time."""
    after = 0
    while page := [each.id for each in read(after, _RUNS_AT_ONCE)]:
        yield page
        after = page[-1]


def _all_of(
    task_ids: Iterable[int], read: Callable[[Collection[int]], Mapping[int, Task]]
) -> dict[int, Task]:
    """These tasks, in the order of their ids, read a bounded number at a time."""
    batches = map(read, in_batches(sorted(task_ids), _RUNS_AT_ONCE))
    return {task.id: task for batch in batches for task in batch.values()}


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
    there = _all_of({run.task_id for run in old.undone}, transaction.tasks)
    tasks = {
        run.task_id: msgspec.structs.replace(
            there[run.task_id], version=run.task_version, definition=old.said[run.task_id]
        )
        for run in old.undone
        if run.task_id in there
    }
    upstream = {edge.upstream_task_id for edge in old.edges}
    gone = upstream - _all_of(upstream, transaction.tasks_in_force).keys()
    edges: dict[TaskEdge, None] = {}
    fates: dict[tuple[int, int], RunEnd] = {}
    for edge in paced(transaction, old.edges):
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
    tasks = _all_of(wanted, transaction.tasks)
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
    known = KnownTasks(tasks.values())
    known.add(_all_of(graph.task_ids - tasks.keys(), transaction.tasks_in_force).values())
    return Plan(tasks, edges, deadline_seconds, {}, known.maps())
