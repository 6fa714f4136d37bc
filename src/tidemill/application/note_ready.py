"""Runs were let go on: whoever dispatches them, or claims them at once, has to know."""

from collections.abc import Iterable

from tidemill.domain.task_run import Hold
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def note_ready(transaction: Transaction, freed: Iterable[tuple[str, Hold | None]]) -> None:
    """For each, its lane, and what still holds it: nothing, an hour to come, or another's end."""
    for lane, hold in freed:
        if hold is None:
            transaction.readied[lane] += 1
        elif hold is Hold.TIME:
            transaction.announce(Topic.READY)
