"""May this run start? Each gate answers with what it found.

The loops ask single gates on their way; `explain` asks all of them of one run. Both ask the same
functions, so that what is explained is what is decided.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task import CALL, Lane, TaskStatus, parse_lane
from tidemill.domain.task_run import HOLDS_FOR_TASK, Hold, ReadyRun, RunHead, TaskRun
from tidemill.domain.worker import Worker, WorkerStatus

# How many runs may wait in the queue for each slot of the workers that serve them: enough that
# no slot waits for the dispatcher, few enough that an urgent run overtakes nearly all.
PREFETCH = 2

_NO_ITEMS = frozenset({"empty", "not_a_list", "too_many_items"})

T = TypeVar("T")


class GateFinding(msgspec.Struct, frozen=True):
    """What one gate says of one run."""

    gate: str
    passes: bool
    detail: str


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gates look at."""

    run: TaskRun
    now: datetime
    task_status: TaskStatus | None  # None: the task was deleted
    key_holders: int  # other runs that count against its concurrency key
    workers: Sequence[Worker]
    spoken_for: int = 0  # slots of the lane's workers that runs have, or are dispatched to
    room: int | None = None  # how many runs its strategy has use for; None: none is asked
    upstream: Sequence[str] = ()  # what it still waits for, a phrase each
    called: str | None = None  # what it called and waits for, a phrase
    expression: str | None = None  # its trigger rule, where that is one
    ahead: int = 0  # ready runs of the lane that start earlier


class Explanation(msgspec.Struct, frozen=True):
    """Why a run has started or has not."""

    may_start: bool
    blocking: str | None
    since: datetime
    earliest_start: datetime | None
    gates: list[GateFinding]


def explain_run(facts: RunFacts) -> Explanation:
    """Every gate's finding, in the order in which they are passed."""
    run = facts.run
    spoken_for = facts.spoken_for if run.status is RunStatus.PENDING else 0
    gates = [
        status_gate(run, facts.called),
        enabled_gate(run, facts.task_status),
        GateFinding("schedule", True, f"made by {run.trigger}, for {run.scheduled_for:%FT%T.%fZ}"),
        misfire_gate(run),
        overlap_gate(run),
        dependencies_gate(run, facts.upstream, facts.expression),
        turn_gate(run) or concurrency_gate(run, facts.key_holders),
        GateFinding("rate", True, "no rate limit applies"),
        GateFinding("quota", True, "no quota applies"),
        not_before_gate(run, facts.now),
        worker_gate(run.lane, facts.workers, spoken_for, facts.room),
        priority_gate(facts.ahead, _room_of(run.lane, facts.workers, spoken_for, facts.room)),
    ]
    blocking = next((finding.gate for finding in gates if not finding.passes), None)
    return Explanation(
        may_start=blocking is None,
        blocking=blocking,
        since=run.completed_at or run.started_at or run.dispatched_at or run.created_at,
        earliest_start=None if run.status in FINAL else max(run.not_before, facts.now),
        gates=gates,
    )


def status_gate(run: TaskRun, called: str | None = None) -> GateFinding:
    """Only a run that has not started and is not final may start; `called` is what one that is
    under way waits for."""
    may = run.status in {
        RunStatus.WAITING, RunStatus.PENDING, RunStatus.DISPATCHED, RunStatus.RETRYING
    }  # fmt: skip
    why = f", {run.reason}" if run.reason else ""
    waits = f"; it waits for {called}" if called else ""
    return GateFinding("status", may, f"{run.status}{why}{waits}")


def enabled_gate(run: TaskRun, task_status: TaskStatus | None) -> GateFinding:
    """A deleted task starts nothing; a paused one only makes no new firings."""
    if task_status is None:
        return GateFinding("enabled", False, "the task was deleted")
    return GateFinding("enabled", True, f"the task is {task_status}")


def misfire_gate(run: TaskRun) -> GateFinding:
    """Whether the firing was turned into a run in time."""
    if run.status is RunStatus.SKIPPED and run.reason in {"misfire", "coalesced", "paused"}:
        into = f" into run {run.coalesced_into}" if run.coalesced_into else ""
        return GateFinding("misfire", False, f"the firing was late: {run.reason}{into}")
    if run.missed_count:
        return GateFinding("misfire", True, f"stands for {run.missed_count} missed firings too")
    return GateFinding("misfire", True, "fired in time")


def overlap_gate(run: TaskRun) -> GateFinding:
    """Whether an earlier run of the task keeps this one back."""
    if run.status is RunStatus.SKIPPED and run.reason == "overlap":
        return GateFinding("overlap", False, run.error_message or "an earlier run had not ended")
    if run.hold in HOLDS_FOR_TASK:
        return GateFinding("overlap", False, "waits for an earlier run of the task to end")
    return GateFinding("overlap", True, "no earlier run is in the way")


def dependencies_gate(
    run: TaskRun, upstream: Sequence[str], expression: str | None = None
) -> GateFinding:
    """Whether its upstream runs came to what is asked of them; `upstream` are the open ones."""
    if run.status is RunStatus.SKIPPED and run.reason == "expression":
        return GateFinding("dependencies", False, run.error_message or "")
    if run.status is RunStatus.SKIPPED and run.reason == "upstream":
        said = "what its upstream runs came to does not let it start"
        if expression is not None:
            said = f"{expression!r} was not true"
        return GateFinding("dependencies", False, said)
    if run.reason in _NO_ITEMS:
        said = run.error_message or "the list that it is mapped over is empty"
        return GateFinding("dependencies", False, said)
    if run.status is not RunStatus.WAITING:
        part = ""
        if run.shard_index is not None:
            number = f"number {run.shard_index + 1} of the {run.shard_total}"
            part = f"; it is {number} that run {run.part_of} became"
        return GateFinding("dependencies", True, f"waits for no upstream run{part}")
    said = f"waits for {', '.join(upstream)}"
    if expression is not None:
        said += f"; then starts if {expression!r}"
    return GateFinding("dependencies", False, said)


def turn_gate(run: TaskRun) -> GateFinding | None:
    """Whether its flow run waits for its turn in a backfill; None where it does not."""
    if run.hold is not Hold.TURN:
        return None
    said = "as many flow runs of its backfill are under way as may be; its turn comes"
    return GateFinding("concurrency", False, said)


def concurrency_gate(run: RunHead | ReadyRun, others: int) -> GateFinding:
    """Whether `others` runs under the same key leave room for this one."""
    if run.concurrency_key is None or run.concurrency_limit is None:
        return GateFinding("concurrency", True, "no limit applies")
    detail = f"{others} of {run.concurrency_limit} running under {run.concurrency_key!r}"
    return GateFinding("concurrency", others < run.concurrency_limit, detail)


def not_before_gate(run: TaskRun, now: datetime) -> GateFinding:
    """Whether its time has come."""
    if run.not_before > now:
        return GateFinding("not_before", False, f"not before {run.not_before:%FT%T.%fZ}")
    return GateFinding("not_before", True, f"its time came at {run.not_before:%FT%T.%fZ}")


def worker_gate(
    lane: str, workers: Sequence[Worker], spoken_for: int = 0, room: int | None = None
) -> GateFinding:
    """Whether any active worker serves the run's lane and has use for one run more."""
    if parse_lane(lane).task_type == CALL:
        return GateFinding("worker", True, "it calls a task: no worker takes it")
    serving = serving_workers(lane, workers)
    if not serving:
        why = _why_nobody_serves(parse_lane(lane), workers)
        return GateFinding("worker", False, f"no active worker serves {lane}: {why}")
    if _room_of(lane, workers, spoken_for, room) <= 0:
        others = f"{spoken_for} runs" if room is None else "enough runs"
        return GateFinding("worker", False, f"{others} have their slots or wait for them already")
    return GateFinding("worker", True, f"{len(serving)} active workers serve {lane}")


def _why_nobody_serves(lane: Lane, workers: Sequence[Worker]) -> str:
    """The first demand of a lane that no active worker meets beside those before it."""
    left = [worker for worker in workers if worker.status is WorkerStatus.ACTIVE]
    if not left:
        return "none is active"
    labels = ", ".join(f"{key}={value}" for key, value in sorted(lane.selector.items()))
    demands: list[tuple[str, Callable[[Worker], bool]]] = [
        (f"serves the queue {lane.queue!r}", lambda each: lane.queue in each.queues),
        (f"runs {lane.task_type!r} tasks", lambda each: lane.task_type in each.task_types),
        (f"has the labels {labels}", lambda each: each.labels.items() >= lane.selector.items()),
        (f"is {lane.worker_id!r}", lambda each: lane.worker_id in (None, each.id)),
    ]
    for demand, is_met_by in demands:
        left = [worker for worker in left if is_met_by(worker)]
        if not left:
            return f"none {demand}"
    raise AssertionError("some worker serves the lane")


def _room_of(lane: str, workers: Sequence[Worker], spoken_for: int, room: int | None) -> int:
    return queue_room(lane, workers, spoken_for) if room is None else room


def queue_room(lane: str, workers: Iterable[Worker], spoken_for: int) -> int:
    """How many more runs of `lane` may be handed to the queue.

    None while so many of its workers' slots are spoken for as there are: a worker that is full goes
    on by itself with what is ready, in the order of that moment and without a message.
    """
    slots = slots_of(serving_workers(lane, workers))
    return slots * PREFETCH - spoken_for if spoken_for < slots else 0


def room_to_place(lane: str, workers: Iterable[Worker], dispatched: int) -> int:
    """The same where its strategy is asked: beyond those in the queue."""
    return queue_refill(slots_of(serving_workers(lane, workers)), dispatched)


def slots_spoken_for(
    lane: str, workers: Iterable[Worker], dispatched: int, running: Mapping[str, int]
) -> int:
    """Slots of the lane's workers that runs have, by worker, or are dispatched to."""
    serving = serving_workers(lane, workers)
    return dispatched + sum(min(running.get(w.id, 0), w.max_concurrent_tasks) for w in serving)


def slots_of(workers: Iterable[Worker]) -> int:
    """How many runs these workers run at once."""
    return sum(worker.max_concurrent_tasks for worker in workers)


def queue_refill(slots: int, waiting: int) -> int:
    """How many more runs may wait in the queue for so many slots, placed by a strategy.

    None while more than half of what they may have there is left: refilled in one go, many runs
    share a message and a claim.
    """
    most = slots * PREFETCH
    return most - waiting if waiting <= most // 2 else 0


def deal(runs: Sequence[T], serving: Collection[Worker]) -> list[Sequence[T]]:
    """Hands of runs for workers that serve them all: no worker is handed what others could start.

    Each hand begins with the most urgent that are left. A batch of more runs than there are slots
    is dealt in smaller ones, so that whoever has room first gets the next.
    """
    slots = slots_of(serving)
    among = len(serving) if len(runs) <= slots else len(serving) * PREFETCH
    hands = max(min(among, len(runs)), 1)
    return [runs[number::hands] for number in range(hands)]


def serving_workers(lane: str, workers: Iterable[Worker]) -> list[Worker]:
    """The active workers that can take runs of `lane`."""
    parsed = parse_lane(lane)
    return [
        worker
        for worker in workers
        if worker.status is WorkerStatus.ACTIVE and worker.serves(parsed)
    ]


def priority_gate(ahead: int, room: int) -> GateFinding:
    """Whether the ready runs of the lane that stand before this one leave it room."""
    return GateFinding("priority", ahead < max(room, 1), f"{ahead} ready runs stand before it")
