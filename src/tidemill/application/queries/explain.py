"""Why a run has started or has not, and whether a firing would."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from tidemill.application.place_runs import load_of, room_among
from tidemill.domain.dependency import Edge, is_expression
from tidemill.domain.flow_run import Member
from tidemill.domain.gates import (
    Explanation,
    GateFinding,
    RunFacts,
    concurrency_gate,
    explain_run,
    room_to_place,
    serving_workers,
    slots_spoken_for,
    worker_gate,
)
from tidemill.domain.new_run import fired_run
from tidemill.domain.overlap import decide_overlap
from tidemill.domain.run_status import LEASED, NOT_STARTED, RunStatus
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import Task, TaskStatus, parse_lane
from tidemill.domain.task_run import CALLER, TaskRun
from tidemill.domain.worker import Worker
from tidemill.foundation.listing import FlowRunFilter, PageRequest
from tidemill.foundation.store import Reads

_MOST_AHEAD = 1_000
_TICK = timedelta(microseconds=1)


def explain(reads: Reads, run: TaskRun, strategies: StrategyRegistry) -> Explanation:
    """Every gate's finding for a run as it stands."""
    task = reads.task(run.task_id)
    workers = reads.workers_alive()
    dispatched = reads.ready_lanes().get(run.lane, 0)
    is_pending = run.status is RunStatus.PENDING
    return explain_run(
        RunFacts(
            run=run,
            now=reads.now,
            task_status=task.status if task else None,
            key_holders=_other_holders(reads, run),
            workers=workers,
            spoken_for=slots_spoken_for(run.lane, workers, dispatched, reads.running_counts()),
            room=_room_of(reads, run.lane, workers, dispatched, strategies) if is_pending else None,
            upstream=_open_upstream(reads, run) if run.status is RunStatus.WAITING else (),
            called=_called(reads, run) if run.worker_id == CALLER else None,
            expression=_expression(reads, run),
            ahead=reads.ready_before(run, _MOST_AHEAD) if run.status in NOT_STARTED else 0,
        )
    )


def _called(reads: Reads, run: TaskRun) -> str | None:
    """Where the flow run stands that it called and waits for."""
    if run.status not in LEASED:
        return None
    page = reads.list_flow_runs(FlowRunFilter(called_by=run.id), PageRequest("-id"))
    for called in page.items:
        if called.called_by_attempt == run.attempt:
            root = reads.members_by_id([called.root_run_id]).get(called.root_run_id)
            first = f"run {called.root_run_id}" + (f" of {root.task_name}" if root else "")
            ended = f"{called.total - called.unfinished} of its {called.total} runs have ended"
            return f"flow run {called.id} ({called.status}), which {first} began: {ended}"
    return None


def _expression(reads: Reads, run: TaskRun) -> str | None:
    key = run.task_id, run.task_version
    rule = reads.definitions({key})[key].trigger_rule
    return rule if is_expression(rule) else None


def _open_upstream(reads: Reads, run: TaskRun) -> list[str]:
    assert run.flow_run_id is not None
    edges = reads.edges_into([run.id])
    members = reads.members_by_id([edge.upstream_run_id for edge in edges if edge.upstream_run_id])
    by_task: dict[int, list[Edge]] = {}
    for edge in edges:
        by_task.setdefault(edge.upstream_task_id, []).append(edge)
    phrases = []
    for task_id, parts in by_task.items():
        waits_for = [
            members[edge.upstream_run_id]
            for edge in parts
            if edge.ended_as is None and edge.upstream_run_id in members
        ]
        if waits_for:
            phrases.append(_of_task(waits_for, len(parts)))
        elif parts[0].upstream_run_id is None:
            task = reads.task(task_id)
            name = task.definition.name if task else f"task {task_id}"
            phrases.append(f"a run of {name} for {run.scheduled_for:%FT%T.%fZ} or later")
    return phrases


def _of_task(waits_for: Sequence[Member], total: int) -> str:
    first = waits_for[0]
    run = f"run {first.id}"
    if total == 1:
        return f"{run} of {first.task_name} ({first.status})"
    share = f"{len(waits_for)} of the {total} runs of {first.task_name}"
    return f"{share}, the first of them {run} ({first.status})"


def _room_of(
    reads: Reads,
    lane: str,
    workers: Sequence[Worker],
    dispatched: int,
    strategies: StrategyRegistry,
) -> int | None:
    """How many more runs a strategy may place; None where none is asked."""
    if not strategies.is_asked_for(parse_lane(lane)):
        return None
    serving = {worker.id for worker in serving_workers(lane, workers)}
    candidates = [each for each in load_of(reads, workers) if each.id in serving]
    return min(room_among(candidates), room_to_place(lane, workers, dispatched))


def explain_firing(
    reads: Reads, task: Task, at: datetime, strategies: StrategyRegistry
) -> Explanation:
    """Every gate's finding for a firing of `task` at `at`, as far as it is known now."""
    run = fired_run(task, at, at)
    workers = reads.workers_alive()
    decision = decide_overlap(task.definition.overlap, reads.unfinished_runs([task.id]))
    is_active = task.status is TaskStatus.ACTIVE
    gates = [
        GateFinding("status", True, "a new run would be pending"),
        GateFinding("enabled", is_active, f"the task is {task.status}"),
        _schedule_gate(task, at),
        GateFinding("misfire", True, "it would be fired in time"),
        GateFinding("overlap", decision.action == "start", _OVERLAP[decision.action]),
        GateFinding("dependencies", True, "waits for no upstream run"),
        concurrency_gate(run, _other_holders(reads, run)),
        GateFinding("rate", True, "no rate limit applies"),
        GateFinding("quota", True, "no quota applies"),
        GateFinding("not_before", True, f"its time is {run.not_before:%FT%T.%fZ}"),
        worker_gate(run.lane, workers, room=_room_of(reads, run.lane, workers, 0, strategies)),
        GateFinding("priority", True, "its place is known once it is ready"),
    ]
    blocking = next((finding.gate for finding in gates if not finding.passes), None)
    return Explanation(
        may_start=blocking is None,
        blocking=blocking,
        since=reads.now,
        earliest_start=run.not_before,
        gates=gates,
    )


_OVERLAP = {
    "start": "no earlier run is in the way",
    "skip": "an earlier run has not ended: the firing would be skipped",
    "hold": "an earlier run has not ended: the firing would wait for it",
}


def _schedule_gate(task: Task, at: datetime) -> GateFinding:
    schedule = task.schedule
    if schedule is None:
        return GateFinding("schedule", False, "the task has no schedule")
    following = schedule.next_after(at - _TICK)
    if following == at:
        return GateFinding("schedule", True, "is a fire time of the version in force")
    when = "never" if following is None else f"{following:%FT%T.%fZ}"
    return GateFinding("schedule", False, f"is no fire time; the next one is {when}")


def _other_holders(reads: Reads, run: TaskRun) -> int:
    """How many others count against the run's key: for one that waits in the queue, those that
    run; before that, those in the queue too."""
    if run.concurrency_key is None:
        return 0
    count = reads.key_runners if run.status is RunStatus.DISPATCHED else reads.key_holders
    held = count([run.concurrency_key]).get(run.concurrency_key, 0)
    return held - 1 if run.status in LEASED else held
