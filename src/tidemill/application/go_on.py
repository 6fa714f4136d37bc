"""A worker goes on with what its own report made ready, in the transaction of the report.

Handed to the queue, each edge of a flow run would cost a dispatch, a message and a claim, three
transactions and two wake-ups, before the next run starts.
"""

from collections.abc import Sequence
from datetime import timedelta

from tidemill.application.claim_runs import with_context
from tidemill.application.take_reports import take_reports
from tidemill.domain.task import QUEUE, parse_lane
from tidemill.domain.task_run import LeasedRun
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
) -> list[ClaimedRun]:
    """Take the reports, then claim up to so many runs for the worker that made them."""
    take_reports(transaction, outputs, endings)
    return _claim_readied(transaction, worker, at_most, lease)


def _claim_readied(
    transaction: Transaction, worker: Worker, at_most: int, lease: timedelta
) -> list[ClaimedRun]:
    """Of the lanes in which this transaction made some ready, those that should start first.

    What a strategy is asked for, or another worker has to take, is left to be dispatched.
    """
    taken: list[LeasedRun] = []
    for lane, count in list(transaction.readied.items()):
        room = min(count, at_most - len(taken))
        parsed = parse_lane(lane)
        if room > 0 and parsed.strategy in (None, QUEUE) and worker.serves(parsed):
            taken += transaction.claim_ready(lane, worker.id, transaction.now + lease, room)
    if taken:
        transaction.announce(Topic.EVENTS)
    return with_context(transaction, taken) if taken else []
