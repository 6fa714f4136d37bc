"""A worker goes on in the transaction of its own report: with what that made ready, and, where it
was full, with what waits.

Handed to the queue, each edge of a flow run would cost a dispatch, a message and a claim, three
transactions and two wake-ups, before the next run starts; and so would each run of a backlog.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from heapq import merge
from itertools import islice, takewhile

from tidemill.application.claim_runs import with_context
from tidemill.application.take_reports import Taken, take_reports
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import parse_lane
from tidemill.domain.task_run import InLine, LeasedRun
from tidemill.domain.worker import Worker
from tidemill.foundation.control_plane import AttemptReport, ClaimedRun, OutputReport
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def report_and_go_on(
    transaction: Transaction,
    outputs: Sequence[OutputReport],
    endings: Sequence[AttemptReport],
    worker: Worker,
    at_most: int,
    lease: timedelta,
    strategies: StrategyRegistry,
) -> list[ClaimedRun]:
    """Take the reports, then claim up to so many runs for the worker that made them, which has no
    other slots free."""
    take_reports(transaction, outputs, endings)
    readied = _readied_for(transaction, worker, strategies)
    taken = _claim(transaction, readied, worker, at_most, lease)
    was_full = len(endings) >= at_most
    if was_full and len(taken) < at_most:
        room = at_most - len(taken)
        following = _next_for(transaction, worker, room, strategies)
        waiting = _claim(transaction, following, worker, room, lease)
        if len(waiting) < room:  # as long as it was full, nothing was dispatched to it
            transaction.announce(Topic.READY)
        taken += waiting
    if taken:
        transaction.announce(Topic.EVENTS)
    return with_context(transaction, taken) if taken else []


def report_and_make_room(
    transaction: Transaction, outputs: Sequence[OutputReport], endings: Sequence[AttemptReport]
) -> Taken:
    """Take the reports of a worker that does not go on by itself: its slots are to be filled."""
    taken = take_reports(transaction, outputs, endings)
    if endings:
        transaction.announce(Topic.READY)
    return taken


def _claim(
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


def _readied_for(
    transaction: Transaction, worker: Worker, strategies: StrategyRegistry
) -> dict[str, int]:
    """How many runs this transaction made ready, in each lane that the worker may claim from."""
    return {
        lane: count
        for lane, count in transaction.readied.items()
        if worker.serves(parsed := parse_lane(lane)) and not strategies.is_asked_for(parsed)
    }


def _next_for(
    transaction: Transaction, worker: Worker, at_most: int, strategies: StrategyRegistry
) -> Counter[str]:
    """How many of each lane are next in line for the worker, up to the first that somebody else
    has to dispatch: slots that are left free are how it gets its turn."""
    lines = []
    for lane in transaction.ready_lanes():
        parsed = parse_lane(lane)
        if worker.serves(parsed):
            line = transaction.first_in_line(lane, at_most)
            is_free = not strategies.is_asked_for(parsed)
            lines.append([(each, lane, is_free and not each.has_key) for each in line])
    first = islice(merge(*lines), at_most)
    return Counter(lane for _, lane, _ in takewhile(_may_be_claimed, first))


def _may_be_claimed(waiting: tuple[InLine, str, bool]) -> bool:
    *_, may_be = waiting
    return may_be
