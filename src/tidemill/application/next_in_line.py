"""What is next in line for a worker, and may be claimed by it without a dispatch and a message.

A run that somebody else has to dispatch, since it counts against a concurrency key or its strategy
is asked, keeps its place: the slot that it would have is left free for it.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from heapq import merge
from itertools import islice

import msgspec

from tidemill.application.claim_runs import with_context
from tidemill.domain.gates import serving_workers
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import parse_lane
from tidemill.domain.task_run import LeasedRun
from tidemill.domain.worker import Worker
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class NextClaimed(msgspec.Struct, frozen=True):
    """What a worker got of what was next in line, and whether it left some to others that have as
    much use for it."""

    runs: list[ClaimedRun]
    has_more: bool


def claim_next(
    transaction: Transaction,
    worker: Worker,
    at_most: int,
    lease: timedelta,
    strategies: StrategyRegistry,
) -> NextClaimed:
    """Claim up to so many runs that are next in line for a worker, who has that many slots free.

    Of fewer than that it takes its share among the workers that serve their lane.
    """
    wanted = next_in_line(transaction, worker, at_most, strategies)
    count = wanted.total()
    if 1 < count < at_most:
        wanted = _share_of(transaction, wanted)
    taken = claim_lanes(transaction, wanted, worker, at_most, lease)
    if taken:
        transaction.announce(Topic.EVENTS)
    has_more = bool(taken) and len(taken) < count
    return NextClaimed(with_context(transaction, taken) if taken else [], has_more)


def next_in_line(
    transaction: Transaction, worker: Worker, at_most: int, strategies: StrategyRegistry
) -> Counter[str]:
    """How many of each lane are among the first so many in line for the worker, without those that
    somebody else has to dispatch."""
    lines = []
    for lane in transaction.ready_lanes():
        parsed = parse_lane(lane)
        if worker.serves(parsed):
            line = transaction.first_in_line(lane, at_most)
            is_free = not strategies.is_asked_for(parsed)
            lines.append([(each, lane, is_free and not each.has_key) for each in line])
    first = islice(merge(*lines), at_most)
    return Counter(lane for _, lane, may_be_claimed in first if may_be_claimed)


def claim_lanes(
    transaction: Transaction,
    wanted: Mapping[str, int],
    worker: Worker,
    at_most: int,
    lease: timedelta,
) -> list[LeasedRun]:
    """As many of each lane, those that should start first, but no more than so many in all."""
    taken: list[LeasedRun] = []
    for lane, count in wanted.items():
        room = min(count, at_most - len(taken))
        if room > 0:
            taken += transaction.claim_ready(lane, worker.id, transaction.now + lease, room)
    return taken


def _share_of(transaction: Transaction, wanted: Mapping[str, int]) -> Counter[str]:
    workers = transaction.workers_alive()
    return Counter(
        {
            lane: -(-count // max(len(serving_workers(lane, workers)), 1))
            for lane, count in wanted.items()
        }
    )
