"""What became of every due firing of a task: nothing is left without an answer."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.listing import LedgerCount
from tidemill.foundation.store import Reads

_SOON = timedelta(seconds=1)  # a firing that is not even a second late is not missed
_TICK = timedelta(microseconds=1)


class LedgerItem(msgspec.Struct, frozen=True):
    """One firing, or a range of them from `range_from` to `scheduled_for`."""

    scheduled_for: datetime
    fate: str  # ran | coalesced | skipped | missed
    reason: str | None
    run_id: int | None
    range_from: datetime | None = None
    count: int = 1


class Ledger(msgspec.Struct, frozen=True):
    """`due` is the sum of the other four; `next_from` is where the items go on."""

    due: int
    ran: int
    coalesced: int
    skipped: int
    missed: int
    items: list[LedgerItem]
    next_from: datetime | None


def ledger_of(reads: Reads, task: Task, since: datetime, until: datetime, limit: int) -> Ledger:
    """The firings of `task` in [since, until), with the first `limit` of them."""
    counts = reads.ledger_counts(task.id, since, until)
    rows = reads.ledger_rows(task.id, since, until, limit + 1)
    missed = _missed(reads, task, since, until)
    items = sorted(
        [_item(row) for row in rows[:limit]]
        + [LedgerItem(at, "missed", None, None) for at in missed],
        key=lambda item: item.scheduled_for,
    )
    ran = _total(counts, lambda count: count.status is not RunStatus.SKIPPED)
    coalesced = _total(counts, _is_coalesced)
    skipped = _total(counts, lambda c: c.status is RunStatus.SKIPPED and not _is_coalesced(c))
    return Ledger(
        due=ran + coalesced + skipped + len(missed),
        ran=ran,
        coalesced=coalesced,
        skipped=skipped,
        missed=len(missed),
        items=items,
        next_from=rows[limit].scheduled_for if len(rows) > limit else None,
    )


def _missed(reads: Reads, task: Task, since: datetime, until: datetime) -> list[datetime]:
    """Fire times that are due and have no row: the schedule has not come to them yet.

    A row is made in the transaction that moves `next_run_at`, so every fire time before it has
    its row, and only those from it on can be without one.
    """
    schedule = task.schedule
    if schedule is None or task.next_run_at is None or task.paused_at is not None:
        return []
    late = min(until, reads.now - _SOON)
    begin = max(since, task.next_run_at)
    return schedule.fires_between(begin - _TICK, late, 1_000) if begin <= late else []


def _item(run: TaskRun) -> LedgerItem:
    fate = "ran"
    if run.status is RunStatus.SKIPPED:
        fate = "coalesced" if run.reason == "coalesced" else "skipped"
    count = run.missed_count + 1 if run.range_from is not None else 1
    return LedgerItem(run.scheduled_for, fate, run.reason, run.id, run.range_from, count)


def _is_coalesced(count: LedgerCount) -> bool:
    return count.status is RunStatus.SKIPPED and count.reason == "coalesced"


def _total(counts: list[LedgerCount], belongs: Callable[[LedgerCount], bool]) -> int:
    return sum(count.count for count in counts if belongs(count))
