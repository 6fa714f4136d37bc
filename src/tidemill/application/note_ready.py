"""Runs were made, or let go on: whoever dispatches them, or claims them at once, has to know."""

from collections.abc import Iterable

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import parse_lane
from tidemill.domain.task_run import Hold, TaskRun
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Freed(msgspec.Struct, frozen=True):
    """A run that waits for its dispatch, or to be claimed; `hold` is what still keeps it: nothing,
    an hour to come, or another's end."""

    lane: str
    hold: Hold | None
    has_key: bool  # it counts against a concurrency key


def freed(run: TaskRun) -> Freed:
    """As much of a run as tells who comes next."""
    return Freed(run.lane, run.hold, run.concurrency_key is not None)


def note_ready(transaction: Transaction, runs: Iterable[Freed]) -> None:
    """Let them be known to those who come next."""
    for run in runs:
        if run.hold is None and not run.has_key and parse_lane(run.lane).is_open:
            transaction.readied[run.lane] += 1
        elif run.hold in {None, Hold.TIME}:
            transaction.announce(Topic.READY)


def note_made(transaction: Transaction, runs: Iterable[TaskRun]) -> None:
    """The same for runs that were just made, some of which may have ended already."""
    transaction.announce(Topic.EVENTS)
    note_ready(transaction, [freed(run) for run in runs if run.status is RunStatus.PENDING])
