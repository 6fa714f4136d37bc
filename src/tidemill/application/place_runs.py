"""Ready runs of a lane whose strategy is asked: whom each is for, and what it is split into."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidemill.application.release_dependents import wait_for_parts
from tidemill.domain.events import EventType
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.placement import (
    Candidate,
    Place,
    Question,
    SchedulingStrategy,
    candidates_among,
    may_split,
    places_of,
)
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import Lane, lane_without_worker, parse_lane
from tidemill.domain.task_run import RunChange, TaskRun, annotate, move
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.foundation.queue import RunMessage, message_of
from tidemill.foundation.store import Reads, Transaction

_PARTS_AT_ONCE = 10_000  # runs that come after so many wait for the next transaction


class Placed(msgspec.Struct, frozen=True):
    """What to publish, and whether more of the lane can be placed at once."""

    messages: list[RunMessage]
    has_more: bool


def load_of(reads: Reads, workers: Sequence[Worker]) -> list[Candidate]:
    """The active workers, and what each has to do."""
    waiting: dict[str, int] = {}
    for lane, count in reads.dispatched_lanes().items():
        named = parse_lane(lane).worker_id
        if named is not None:
            waiting[named] = waiting.get(named, 0) + count
    active = [worker for worker in workers if worker.status is WorkerStatus.ACTIVE]
    return candidates_among(active, reads.running_counts(), waiting)


def room_among(candidates: Sequence[Candidate]) -> int:
    """How many more runs these workers have use for, all together."""
    return sum(candidate.room for candidate in candidates)


def place_runs(
    transaction: Transaction,
    lane: Lane,
    runs: Sequence[TaskRun],
    candidates: Sequence[Candidate],
    strategies: StrategyRegistry,
) -> Placed:
    """Hand each of these ready runs to whom its strategy names, or let it wait for them.

    Of a run that is split, the others are stored in the same transaction, ready, under keys of
    their own: whatever is dispatched again, none is made twice.
    """
    asked = msgspec.structs.replace(lane, strategy=strategies.name_for(lane))
    named = _strategies_for(transaction, runs, strategies)
    turns = _turns_of(transaction, asked, runs, named)
    changes: list[RunChange] = []
    parts: list[TaskRun] = []
    dispatched: dict[str, list[TaskRun]] = {}
    for run in runs:
        if len(parts) >= _PARTS_AT_ONCE:
            break
        question = Question(run.task_id, turns[run.id], may_split(run))
        place, *others = places_of(named[run.id], question, candidates)
        goes_to = _lane_of(asked, place)
        changes.append(_change_of(transaction, run, place, goes_to, bool(others)))
        if place.has_room:
            dispatched.setdefault(goes_to, []).append(run)
        parts += [_part_of(transaction, run, each, _lane_of(asked, each)) for each in others]
    transaction.change_runs(changes)
    wait_for_parts(transaction, transaction.insert_runs(parts))
    messages = [message_of(to, handed) for to, handed in dispatched.items()]
    # Parts are ready as well, and who waits for a full worker has left room to those behind.
    waits = len(changes) > sum(len(message.run_ids) for message in messages)
    return Placed(messages, has_more=bool(parts) or waits)


def _strategies_for(
    transaction: Transaction, runs: Sequence[TaskRun], strategies: StrategyRegistry
) -> dict[int, SchedulingStrategy]:
    """Run id → what its task asks for, in the version that it was made of."""
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in runs})
    built = {key: strategies.asked_for(definition) for key, definition in definitions.items()}
    return {run.id: built[run.task_id, run.task_version] for run in runs}


def _turns_of(
    transaction: Transaction,
    lane: Lane,
    runs: Sequence[TaskRun],
    named: Mapping[int, SchedulingStrategy],
) -> dict[int, int]:
    takers = [run.id for run in runs if named[run.id].takes_turns]
    first = transaction.take_turns(str(lane), len(takers)) if takers else 0
    return dict.fromkeys(named, 0) | dict(
        zip(takers, range(first, first + len(takers)), strict=True)
    )


def _lane_of(asked: Lane, place: Place) -> str:
    strategy = None if place.is_bound else asked.strategy
    return str(msgspec.structs.replace(asked, strategy=strategy, worker_id=place.worker_id))


def _change_of(
    transaction: Transaction, run: TaskRun, place: Place, lane: str, is_split: bool
) -> RunChange:
    now = transaction.now
    changes: dict[str, Any] = {"lane": lane}
    if is_split or place.shard_total is not None or place.is_bound:
        changes |= {
            "part_of": run.part_of or run.id,
            "shard_index": place.shard_index,
            "shard_total": place.shard_total,
        }
    told = {"worker_id": place.worker_id}
    if not place.has_room:
        return annotate(run, now, EventType.RUN_PLACED, told, **changes)
    return move(
        run,
        RunStatus.DISPATCHED,
        now,
        EventType.RUN_DISPATCHED,
        told,
        dispatched_at=now,
        **changes,
    )


def _part_of(transaction: Transaction, run: TaskRun, place: Place, lane: str) -> TaskRun:
    whose = place.shard_index if place.shard_index is not None else place.worker_id
    return msgspec.structs.replace(
        run,
        id=0,
        lane=lane,
        trigger_key=f"part:{run.id}:{whose}",
        part_of=run.id,
        shard_index=place.shard_index,
        shard_total=place.shard_total,
        created_at=transaction.now,
    )


def free_runs(transaction: Transaction, runs: Sequence[TaskRun]) -> None:
    """Let anybody have these pending runs, whose lanes name workers that are gone."""
    transaction.change_runs(
        [
            annotate(
                run,
                transaction.now,
                EventType.RUN_PLACED,
                {"worker_id": None, "reason": "worker_gone"},
                lane=lane_without_worker(run.lane),
            )
            for run in runs
        ]
    )
