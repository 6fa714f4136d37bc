"""Tasks that depend on one another, and what their runs in a flow run wait for."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from tidemill.domain.dependency import Edge, Rule, Tally
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task, parse_task_key
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.store import TaskEdge


class PlacedRun(msgspec.Struct, frozen=True):
    """As much of a run as its place in a flow run depends on."""

    id: int
    task_id: int
    flow_run_id: str
    status: RunStatus


def placed(run: TaskRun) -> PlacedRun:
    """The place of a run that is in a flow run."""
    assert run.flow_run_id is not None
    return PlacedRun(run.id, run.task_id, run.flow_run_id, run.status)


class TaskGraph:
    """Which tasks name which as their upstream."""

    def __init__(self, edges: Iterable[TaskEdge]) -> None:
        self._upstream: dict[int, list[TaskEdge]] = {}
        self._downstream: dict[int, list[int]] = {}
        for edge in edges:
            self._upstream.setdefault(edge.task_id, []).append(edge)
            self._downstream.setdefault(edge.upstream_task_id, []).append(edge.task_id)

    @property
    def task_ids(self) -> set[int]:
        """All of them."""
        return {*self._upstream, *self._downstream}

    def has_upstream(self, task_id: int) -> bool:
        """Whether a task depends on any."""
        return task_id in self._upstream

    def below(self, roots: Collection[int]) -> list[int]:
        """The tasks that can be reached from these, the near ones first."""
        found = dict.fromkeys(roots)
        work = list(found)
        for task_id in work:
            fresh = [each for each in self._downstream.get(task_id, ()) if each not in found]
            found |= dict.fromkeys(fresh)
            work += fresh
        return work[len(roots) :]

    def edges_into(
        self,
        runs: Iterable[PlacedRun],
        counting: Mapping[int, Sequence[int]],
        maps: Collection[tuple[int, int]],
    ) -> Iterator[Edge]:
        """What each of these runs of a flow run waits for, in it or outside.

        `counting` are the runs that count for a task in the flow run, in the order of its parts.
        `maps` are the tasks that are mapped over another, and which. What begins at once waits for
        nothing; what is skipped as paused would have waited.
        """
        return (
            Edge(
                run.id,
                edge.upstream_task_id,
                part,
                run_id,
                run.flow_run_id,
                edge.condition,
                is_mapped_over=(run.task_id, edge.upstream_task_id) in maps,
            )
            for run in runs
            if run.status is not RunStatus.PENDING
            for edge in self._upstream.get(run.task_id, ())
            for part, run_id in enumerate(counting.get(edge.upstream_task_id, (None,)))
        )


class KnownTasks:
    """As much of tasks as the places of their runs in a flow run depend on."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.rules: dict[int, Rule] = {}
        self._ids: dict[str, int] = {}
        self._mapped: dict[int, int | str] = {}  # over which task: its id, or its key
        self.add(tasks)

    def add(self, tasks: Iterable[Task]) -> None:
        """Further ones."""
        for task in tasks:
            definition = task.definition
            self.rules[task.id] = definition.trigger_rule
            self._ids[task.key] = task.id
            if definition.map_over is not None:
                said = parse_task_key(definition.map_over.task)
                self._mapped[task.id] = (
                    said if isinstance(said, int) else f"{definition.namespace}/{said}"
                )

    def maps(self) -> set[tuple[int, int]]:
        """Which of them, by id, is mapped over which other one of them."""
        over = {
            task_id: said if isinstance(said, int) else self._ids.get(said)
            for task_id, said in self._mapped.items()
        }
        return {(task_id, upstream) for task_id, upstream in over.items() if upstream is not None}


def tallies_of(
    runs: Iterable[PlacedRun], edges: Iterable[Edge], rules: Mapping[int, Rule]
) -> list[Tally]:
    """The tallies of those of these runs that wait; `rules` are those of their tasks."""
    totals: dict[int, int] = {}
    for edge in edges:
        totals[edge.downstream_run_id] = totals.get(edge.downstream_run_id, 0) + 1
    return [
        Tally(run.id, rules[run.task_id], totals[run.id])
        for run in runs
        if run.status is RunStatus.WAITING
    ]
