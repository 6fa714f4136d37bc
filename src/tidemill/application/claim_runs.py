"""A worker takes runs: one guarded change gives it the lease and a fence of its own."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from tidemill.application.time_out_runs import time_out_runs
from tidemill.domain.deadline import overdue_reason, seconds_left
from tidemill.domain.events import EventType
from tidemill.domain.gates import GateFinding, concurrency_gate
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import (
    QUEUE,
    Lane,
    lane_to_wait_in,
    lanes_it_came_from,
    parse_lane,
)
from tidemill.domain.task_run import Hold, LeasedRun, RunChange, Shard, TaskRun, move
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.store import PlaceInFlow, Transaction
from tidemill.foundation.wakeups import Topic

_WHOLE = Shard()


def claim_runs(
    transaction: Transaction, worker_id: str, run_ids: Collection[int], lease: timedelta
) -> list[ClaimedRun]:
    """Take those of the named runs that are still to be had; the others moved on meanwhile.

    The limits are checked again here, where they bind: what was dispatched is only a hint. A run
    that waited too long is ended in place of being taken.
    """
    worker = transaction.worker(worker_id)
    if worker is None or worker.status is not WorkerStatus.ACTIVE:
        return []
    until = transaction.now + lease
    claimed = transaction.claim_unbound(run_ids, worker_id, until)
    refused: list[TaskRun] = []
    if left := set(run_ids) - {run.id for run in claimed}:
        refused = _refuse(transaction, transaction.bound_runs(left))
        claimed += transaction.claim(left - {run.id for run in refused}, worker_id, until)
    if claimed or refused:
        transaction.announce(Topic.EVENTS)
    lanes = _lanes_with_room(claimed, refused)
    if lanes and transaction.has_ready_runs(lanes):
        transaction.announce(Topic.READY)  # they wait for the room that was made
    return _in_order(run_ids, with_context(transaction, claimed))


def _lanes_with_room(claimed: Sequence[LeasedRun], refused: Sequence[TaskRun]) -> set[str]:
    """The lanes that these runs leave room in: what one worker took, others may wait to be.

    What any worker may take counts before its claim as after it, so that none is left there.
    """
    placed = [run.lane for run in claimed if _was_placed(parse_lane(run.lane))]
    lanes = {*placed, *(run.lane for run in refused)}
    return lanes.union(*map(lanes_it_came_from, lanes))


def _was_placed(lane: Lane) -> bool:
    """Whether a strategy was asked for its runs, or they are one worker's."""
    return lane.worker_id is not None or not lane.is_open


def _refuse(transaction: Transaction, bound: Sequence[TaskRun]) -> list[TaskRun]:
    """End those that are overdue, and withdraw those whose concurrency key is full."""
    overdue = [run for run in bound if overdue_reason(run, transaction.now)]
    time_out_runs(transaction, overdue)
    return overdue + _withdraw(transaction, [run for run in bound if run not in overdue])


def _withdraw(transaction: Transaction, bound: Sequence[TaskRun]) -> list[TaskRun]:
    """Those whose key has no room left, in the order in which they should start."""
    keys = {run.concurrency_key for run in bound if run.concurrency_key is not None}
    runners = transaction.key_runners(keys)
    withdrawn, changes = [], []
    for run in sorted(bound, key=lambda run: (run.rank, run.scheduled_for, run.id)):
        key = run.concurrency_key
        if key is None:
            continue
        finding = concurrency_gate(run, runners.get(key, 0))
        if finding.passes:
            runners[key] = runners.get(key, 0) + 1
        else:
            withdrawn.append(run)
            changes.append(_withdrawal(run, transaction.now, finding))
    transaction.change_runs(changes)
    return withdrawn


def _withdrawal(run: TaskRun, now: datetime, finding: GateFinding) -> RunChange:
    return move(
        run,
        RunStatus.PENDING,
        now,
        EventType.DISPATCH_WITHDRAWN,
        {"reason": "limit", "detail": finding.detail},
        hold=Hold.LIMIT,
        dispatched_at=None,
        lane=lane_to_wait_in(run.lane),
    )


def _in_order(run_ids: Collection[int], claimed: Sequence[ClaimedRun]) -> list[ClaimedRun]:
    by_id = {each.run.id: each for each in claimed}
    return [by_id[run_id] for run_id in dict.fromkeys(run_ids) if run_id in by_id]


def with_context(transaction: Transaction, taken: list[LeasedRun]) -> list[ClaimedRun]:
    """Runs that a worker holds, each with all that it needs to know."""
    places = _places_in_flow(transaction, taken)
    taken = _with_upstream(_with_log_seq(transaction, taken), places)
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in taken})
    successes = _previous_successes(transaction, taken, places)
    shards = _shards_of(transaction, taken, places)
    return [
        ClaimedRun(
            run,
            definitions[run.task_id, run.task_version],
            successes.get(run.id),
            seconds_left(run, transaction.now),
            shards.get(run.id, _WHOLE),
        )
        for run in taken
    ]


def _places_in_flow(
    transaction: Transaction, taken: Sequence[LeasedRun]
) -> Mapping[int, PlaceInFlow]:
    in_flow = [run.id for run in taken if run.flow_run_id is not None]
    return transaction.places_in_flow(in_flow) if in_flow else {}


def _with_upstream(taken: list[LeasedRun], places: Mapping[int, PlaceInFlow]) -> list[LeasedRun]:
    """What the upstream runs returned stands in `parameters.upstream`, by task."""
    if not places:
        return taken
    return [
        msgspec.structs.replace(
            run, parameters=run.parameters | {"upstream": places[run.id].upstream}
        )
        if run.id in places
        else run
        for run in taken
    ]


def _previous_successes(
    transaction: Transaction, taken: Sequence[LeasedRun], places: Mapping[int, PlaceInFlow]
) -> dict[int, datetime | None]:
    """By run; what is in a flow run was told with its place there."""
    alone = {run.task_id for run in taken if run.id not in places}
    found = transaction.previous_successes(alone) if alone else {}
    return {
        run.id: places[run.id].previous_success if run.id in places else found.get(run.task_id)
        for run in taken
    }


def _shards_of(
    transaction: Transaction, taken: Sequence[LeasedRun], places: Mapping[int, PlaceInFlow]
) -> dict[int, Shard]:
    """Only what a strategy was asked for may have been split, and what is in a flow run mapped."""
    asked = [
        run.id
        for run in taken
        if run.id not in places and parse_lane(run.lane).strategy not in (None, QUEUE)
    ]
    shards = transaction.shards(asked) if asked else {}
    return shards | {run_id: place.shard for run_id, place in places.items() if place.shard}


def _with_log_seq(transaction: Transaction, taken: list[LeasedRun]) -> list[LeasedRun]:
    """Output goes on counting where an earlier attempt left off, lost ones included."""
    later = [run.id for run in taken if run.attempt > 1]
    if not later:
        return taken
    stored = transaction.last_log_seqs(later)
    return [
        msgspec.structs.replace(run, log_seq=max(run.log_seq, stored.get(run.id, 0)))
        for run in taken
    ]
