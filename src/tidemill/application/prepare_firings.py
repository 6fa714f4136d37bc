"""What will soon fire is worked out ahead, so that its second is left for starting it."""

from datetime import datetime, timedelta

import msgspec

from tidemill.domain.prepared_firing import prepare_firing
from tidemill.foundation.store import Transaction


class Prepared(msgspec.Struct, frozen=True):
    """How many firings were prepared, and when the first comes that was not looked at."""

    firings: int
    next_due_at: datetime | None


def prepare_firings(transaction: Transaction, horizon: timedelta, limit: int) -> Prepared:
    """Prepare up to `limit` firings whose time comes within the horizon, earliest first."""
    until = transaction.now + horizon
    tasks = transaction.unprepared_tasks(until, limit)
    transaction.save_prepared([prepare_firing(task) for task in tasks])
    return Prepared(len(tasks), transaction.next_due_after(until))
