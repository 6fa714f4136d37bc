"""History goes when its time is up, a little at a time."""

from datetime import timedelta

from tidemill.foundation.store import Transaction

_ANSWERS_KEPT = timedelta(hours=24)


def prune_history(transaction: Transaction, keep: timedelta, limit: int) -> int:
    """Delete up to `limit` runs that finished longer than `keep` ago; how many went.

    Workers that left or were lost longer ago than that go as well.
    """
    transaction.prune_answers(transaction.now - _ANSWERS_KEPT)
    transaction.prune_workers(transaction.now - keep)
    return transaction.prune(transaction.now - keep, limit)
