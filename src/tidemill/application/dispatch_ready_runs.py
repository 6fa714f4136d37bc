"""Ready runs are handed to the queue, the most urgent first, as many as workers have use for."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidemill.application.begin_calls import begin_calls
from tidemill.application.heed_limits import hold_back, within_limits
from tidemill.application.place_runs import Placed, free_runs, load_of, place_runs, room_among
from tidemill.domain.events import EventType
from tidemill.domain.gates import (
    deal,
    queue_room,
    room_to_place,
    serving_workers,
    slots_spoken_for,
)
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.placement import Candidate
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import CALL, lane_to_wait_in, parse_lane
from tidemill.domain.task_run import Hold, ReadyRun, RunChange, TaskRun, annotate, move, rank_of
from tidemill.domain.worker import Worker
from tidemill.foundation.queue import RunMessage, message_of
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Dispatched(msgspec.Struct, frozen=True):
    """What to publish, and when there is more to do."""

    messages: list[RunMessage]
    has_more: bool
    next_ready_at: datetime | None


def dispatch_ready_runs(
    transaction: Transaction, limit: int, strategies: StrategyRegistry
) -> Dispatched:
    """Mark up to `limit` ready runs as dispatched; the caller publishes once that is committed."""
    promoted = _end_time_holds(transaction, limit)
    messages = []
    has_more = promoted == limit
    workers = transaction.workers_alive()
    placement = _Placement(transaction, workers, strategies, limit)
    lanes = transaction.ready_lanes()
    running = transaction.running_counts() if lanes else {}
    for lane, dispatched in lanes.items():
        parsed = parse_lane(lane)
        if parsed.task_type == CALL:
            has_more = begin_calls(transaction, lane, limit) or has_more
            continue
        if strategies.is_asked_for(parsed):
            placed = placement.place(lane, min(room_to_place(lane, workers, dispatched), limit))
            messages += placed.messages
            has_more = has_more or placed.has_more
            continue
        spoken_for = slots_spoken_for(lane, workers, dispatched, running)
        room = min(queue_room(lane, workers, spoken_for), limit)
        if room > 0:
            goes, held = _dispatch_lane(transaction, lane, room)
            # Whom a full key kept back has left room to those behind.
            has_more = has_more or held > 0 or len(goes) == limit
            if goes:
                hands = deal(goes, serving_workers(lane, workers))
                messages += [message_of(lane, hand) for hand in hands]
        elif parsed.worker_id is not None and not serving_workers(lane, workers):
            freed = transaction.runs_to_place(lane, limit)
            free_runs(transaction, freed)
            has_more = has_more or bool(freed)
    if messages or promoted or has_more:
        transaction.announce(Topic.EVENTS)
    return Dispatched(messages, has_more, transaction.next_hold_ends_at())


def _end_time_holds(transaction: Transaction, limit: int) -> int:
    due = transaction.due_holds(limit)
    transaction.change_runs([_time_has_come(run, transaction.now) for run in due])
    return len(due)


def _time_has_come(run: TaskRun, now: datetime) -> RunChange:
    changes = {
        "hold": None,
        "rank": rank_of(run.not_before, run.priority),
        "lane": lane_to_wait_in(run.lane),
    }
    if run.status is RunStatus.RETRYING:
        return move(run, RunStatus.PENDING, now, EventType.RUN_RELEASED, None, **changes)
    return annotate(run, now, EventType.RUN_RELEASED, {"held_for": Hold.TIME.value}, **changes)


class _Placement:
    """The lanes of one transaction whose strategies are asked; all see what the others gave out."""

    def __init__(
        self,
        transaction: Transaction,
        workers: Sequence[Worker],
        strategies: StrategyRegistry,
        limit: int,
    ) -> None:
        self._transaction = transaction
        self._workers = workers
        self._strategies = strategies
        self._limit = limit
        self._load: list[Candidate] | None = None

    def place(self, lane: str, room: int) -> Placed:
        """Place as many runs of a lane as its workers have use for, but no more than `room`."""
        serving = {worker.id for worker in serving_workers(lane, self._workers)}
        if self._load is None:
            self._load = load_of(self._transaction, self._workers)
        candidates = [each for each in self._load if each.id in serving]
        limit = min(room_among(candidates), room)
        if limit <= 0:
            return Placed([], has_more=False)
        runs = self._transaction.runs_to_place(lane, limit)
        goes, kept = within_limits(self._transaction, runs)
        placed = place_runs(self._transaction, parse_lane(lane), goes, candidates, self._strategies)
        hold_back(self._transaction, kept)
        # Whom a full key kept back has left room to those behind; so has whoever filled the batch.
        is_cut = bool(kept) or len(runs) == self._limit
        return msgspec.structs.replace(placed, has_more=placed.has_more or is_cut)


def _dispatch_lane(transaction: Transaction, lane: str, limit: int) -> tuple[list[ReadyRun], int]:
    """The runs of a lane that go, and how many their concurrency keys keep back."""
    goes, kept = within_limits(transaction, transaction.ready_runs(lane, limit))
    transaction.dispatch(goes)
    hold_back(transaction, kept)
    return goes, len(kept)
