"""A worker goes on in the transaction of its own report: with what that made ready, and, where it
was full, with what waits.

Handed to the queue, each edge of a flow run would cost a dispatch, a message and a claim, three
transactions and two wake-ups, before the next run starts; and so would each run of a backlog.
"""

from collections.abc import Sequence
from datetime import timedelta

from tidemill.application.claim_runs import with_context
from tidemill.application.next_in_line import claim_lanes, next_in_line
from tidemill.application.take_reports import Taken, take_reports
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import parse_lane
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
    *,
    was_full: bool,
) -> list[ClaimedRun]:
    """Take the reports, then claim up to so many runs for the worker that made them: what they made
    ready, and, where it was full until then, what is next in line."""
    take_reports(transaction, outputs, endings)
    readied = _readied_for(transaction, worker, strategies)
    taken = claim_lanes(transaction, readied, worker, at_most, lease)
    if was_full and len(taken) < at_most:
        room = at_most - len(taken)
        following = next_in_line(transaction, worker, room, strategies)
        waiting = claim_lanes(transaction, following, worker, room, lease)
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


def _readied_for(
    transaction: Transaction, worker: Worker, strategies: StrategyRegistry
) -> dict[str, int]:
    """How many runs this transaction made ready, in each lane that the worker may claim from."""
    return {
        lane: count
        for lane, count in transaction.readied.items()
        if worker.serves(parsed := parse_lane(lane)) and not strategies.is_asked_for(parsed)
    }
