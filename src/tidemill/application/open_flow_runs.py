"""A task that others depend on fires: all that hang on it get a run in the same flow run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain

import msgspec

from tidemill.application.pace import paced
from tidemill.application.release_dependents import (
    advance_backfills,
    count_outside_edges,
    release_dependents,
)
from tidemill.application.task_graph import KnownTasks, PlacedRun, TaskGraph, placed, tallies_of
from tidemill.domain.deadline import earlier
from tidemill.domain.dependency import Edge
from tidemill.domain.flow_run import FlowRun, FlowStatus, begun, new_flow_run_id
from tidemill.domain.new_run import dependent_run, run_without_turn, waiting_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task
from tidemill.domain.task_run import LeasedRun, TaskRun, Trigger
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import Transaction

_RUNS_AT_ONCE = 2_000  # between two batches others get a turn
_WAITS = frozenset({Trigger.SCHEDULE, Trigger.BACKFILL})


class Turns(msgspec.Struct, frozen=True):
    """The flow runs of a backfill take turns: at most `max_parallel` are under way at once."""

    backfill_id: str
    max_parallel: int


def insert_roots(
    transaction: Transaction,
    tasks: Mapping[int, Task],
    runs: Sequence[TaskRun],
    turns: Turns | None = None,
) -> list[TaskRun]:
    """Store new runs, and the flow runs that those of connected tasks open; those wait for their
    `turns`, where there are any, the earliest fire time first.

    A firing waits for the upstream tasks of its own task. Whoever asks by hand is not kept waiting.
    """
    opened: dict[str, FlowRun] = {}
    roots: list[TaskRun] = []
    for run in runs:
        task = tasks[run.task_id]
        if not _opens_flow_run(task, run):
            roots.append(run)
            continue
        flow_run = _flow_run(task, run, transaction.now, turns)
        opened[flow_run.id] = flow_run
        roots.append(_root(task, run, flow_run))
    created = transaction.insert_runs(roots)
    if opened:
        _open(transaction, tasks, opened, [run for run in created if run.flow_run_id is not None])
    if opened and turns is not None:
        transaction.keep_backfill(turns.backfill_id, turns.max_parallel)
        advance_backfills(transaction, [turns.backfill_id])
    return created


class Call(msgspec.Struct, frozen=True):
    """A run that another one, which is under way, calls for, and until when its end is waited
    for."""

    run: TaskRun
    caller: LeasedRun
    until: datetime | None


def insert_called(
    transaction: Transaction, tasks: Mapping[int, Task], calls: Sequence[Call]
) -> None:
    """Store runs that others call for, each with a flow run whose end its caller waits for."""
    opened: dict[str, FlowRun] = {}
    roots: list[TaskRun] = []
    for call in calls:
        task = tasks[call.run.task_id]
        flow_run = _called_flow_run(task, call, transaction.now)
        opened[flow_run.id] = flow_run
        roots.append(_root(task, call.run, flow_run))
    _open(transaction, tasks, opened, transaction.insert_runs(roots))


def _called_flow_run(task: Task, call: Call, now: datetime) -> FlowRun:
    flow_run = _flow_run(task, call.run, now, None)
    return msgspec.structs.replace(
        flow_run,
        called_by=call.caller.id,
        called_by_attempt=call.caller.attempt,
        deadline_at=earlier(flow_run.deadline_at, call.until),
    )


def _opens_flow_run(task: Task, run: TaskRun) -> bool:
    is_awaited = task.has_dependents or _waits(task, run)
    return is_awaited and run.status is not RunStatus.SKIPPED


def _waits(task: Task, run: TaskRun) -> bool:
    return bool(task.definition.dependencies) and run.trigger in _WAITS


def _flow_run(task: Task, root: TaskRun, now: datetime, turns: Turns | None) -> FlowRun:
    """Of this root, which has no id yet, and of no runs yet."""
    flow_run = FlowRun(
        id=new_flow_run_id(now),
        namespace=root.namespace,
        root_task_id=root.task_id,
        root_run_id=0,
        trigger=root.trigger,
        scheduled_for=root.scheduled_for,
        status=FlowStatus.WAITING,
        total=0,
        unfinished=0,
        created_at=now,
        deadline_seconds=task.definition.flow_deadline_seconds,
        backfill_id=turns.backfill_id if turns else None,
    )
    return flow_run if turns else begun(flow_run, max(root.not_before, now))


def _root(task: Task, run: TaskRun, flow_run: FlowRun) -> TaskRun:
    named = msgspec.structs.replace(
        run,
        flow_run_id=flow_run.id,
        deadline_at=earlier(run.deadline_at, flow_run.deadline_at),
    )
    if _waits(task, run):
        return waiting_run(named)
    return run_without_turn(named) if flow_run.status is FlowStatus.WAITING else named


def _open(
    transaction: Transaction,
    tasks: Mapping[int, Task],
    opened: Mapping[str, FlowRun],
    roots: Sequence[TaskRun],
) -> None:
    task_edges = transaction.task_edges_below({root.task_id for root in roots})
    graph = TaskGraph(paced(transaction, task_edges))
    below = {task_id: graph.below([task_id]) for task_id in {root.task_id for root in roots}}
    known = KnownTasks(tasks.values())
    in_flow = {flow_run_id: [placed(root)] for flow_run_id, root in _by_flow_run(roots)}
    skipped: list[TaskRun] = []
    places = ((root, task_id) for root in roots for task_id in below[root.task_id])
    for batch in in_batches(places, _RUNS_AT_ONCE):
        found = transaction.tasks_in_force({task_id for _, task_id in batch})
        known.add(found.values())
        dependents = transaction.insert_runs(
            [dependent_run(found[task_id], root, transaction.now) for root, task_id in batch]
        )
        for flow_run_id, run in _by_flow_run(dependents):
            in_flow[flow_run_id].append(placed(run))
        skipped += [run for run in dependents if run.status is RunStatus.SKIPPED]
    for others in in_batches(graph.task_ids - known.rules.keys(), _RUNS_AT_ONCE):
        known.add(transaction.tasks_in_force(others).values())
    edges = list(paced(transaction, _edges_into(in_flow.values(), graph, known)))
    placed_runs = paced(transaction, chain.from_iterable(in_flow.values()))
    transaction.open_flow_runs(
        [_with_runs(opened[flow_run_id], runs) for flow_run_id, runs in in_flow.items()],
        tallies_of(placed_runs, edges, known.rules),
    )
    transaction.add_edges(edges)
    release_dependents(transaction, skipped)
    if any(edge.upstream_run_id is None for edge in edges):
        count_outside_edges(transaction)


def _by_flow_run(runs: Iterable[TaskRun]) -> Iterator[tuple[str, TaskRun]]:
    return ((run.flow_run_id, run) for run in runs if run.flow_run_id is not None)


def _edges_into(
    flow_runs: Iterable[Sequence[PlacedRun]], graph: TaskGraph, known: KnownTasks
) -> Iterator[Edge]:
    maps = known.maps()
    for runs in flow_runs:
        yield from graph.edges_into(runs, {run.task_id: (run.id,) for run in runs}, maps)


def _with_runs(flow_run: FlowRun, runs: Sequence[PlacedRun]) -> FlowRun:
    return msgspec.structs.replace(
        flow_run, root_run_id=runs[0].id, total=len(runs), unfinished=len(runs)
    )
