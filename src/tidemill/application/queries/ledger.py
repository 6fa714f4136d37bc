"""What became of every due firing of a task: nothing is left without an answer."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.schedule import Schedule
from tidemill.domain.task import Task, schedule_of
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.listing import LedgerCount
from tidemill.foundation.store import Reads

_SOON = timedelta(seconds=1)  # a firing that is not even a second late is not missed
_TICK = timedelta(microseconds=1)
_NEVER = datetime.max.replace(tzinfo=UTC)


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
    items = [_item(row) for row in rows]
    if rows and _begins_before(rows[0], since):
        items[0] = _clipped(reads, rows[0], since, until)
        counts.append(_correction(rows[0], items[0].count - _stands_for(rows[0])))
    following = reads.ledger_rows(task.id, until, _NEVER, 1)
    if following and _begins_before(following[0], until):
        part = _clipped(reads, following[0], since, until)
        items += [part] if part.count else []
        counts.append(_correction(following[0], part.count))
    unwritten = _unwritten(reads, task, since, until)
    items += unwritten.items(limit + 1)
    ran = _total(counts, lambda count: count.status is not RunStatus.SKIPPED)
    coalesced = _total(counts, _is_coalesced)
    skipped = _total(counts, lambda c: c.status is RunStatus.SKIPPED and not _is_coalesced(c))
    skipped += unwritten.count if unwritten.fate == "skipped" else 0
    missed = unwritten.count if unwritten.fate == "missed" else 0
    return Ledger(
        due=ran + coalesced + skipped + missed,
        ran=ran,
        coalesced=coalesced,
        skipped=skipped,
        missed=missed,
        items=items[:limit],
        next_from=_begin_of(items[limit]) if len(items) > limit else None,
    )


class _Unwritten:
    """Fire times in (after, until] that have no row yet."""

    def __init__(
        self,
        fate: str = "missed",
        reason: str | None = None,
        schedule: Schedule | None = None,
        after: datetime = _NEVER,
        until: datetime = _NEVER,
    ) -> None:
        self.fate = fate
        self._reason = reason
        self._schedule = schedule
        self._after = after
        self._until = until

    @property
    def count(self) -> int:
        return self._schedule.count_between(self._after, self._until) if self._schedule else 0

    def items(self, limit: int) -> list[LedgerItem]:
        if self._schedule is None:
            return []
        times = self._schedule.fires_between(self._after, self._until, limit)
        return [LedgerItem(at, self.fate, self._reason, None) for at in times]


def _unwritten(reads: Reads, task: Task, since: datetime, until: datetime) -> _Unwritten:
    """What is due and was not come to yet, and what a pause that lasts has skipped so far.

    A row is made in the transaction that moves `next_run_at`, so every fire time before it has
    its row, and only those from it on can be without one.
    """
    schedule = task.schedule
    if schedule is None:
        return _Unwritten()
    upto = min(until - _TICK, reads.now - _SOON)
    if task.paused_at is not None:
        known = schedule if schedule.kind != "after" else None
        return _Unwritten("skipped", "paused", known, max(since - _TICK, task.paused_at), upto)
    if task.next_run_at is None:
        return _Unwritten()
    return _Unwritten("missed", None, schedule, max(since, task.next_run_at) - _TICK, upto)


def _clipped(reads: Reads, row: TaskRun, since: datetime, until: datetime) -> LedgerItem:
    """As much of a range as lies in [since, until)."""
    assert row.range_from is not None
    version = (row.task_id, row.task_version)
    definition = reads.definitions([version])[version]
    # Counted from its own first time, a range has the fire times that its version gave it.
    begin = row.range_from
    schedule = schedule_of(msgspec.structs.replace(definition, start_at=begin), begin)
    assert schedule is not None
    after, last = max(begin, since) - _TICK, min(row.scheduled_for, until - _TICK)
    count = schedule.count_between(after, last)
    item = _item(row)
    if not count:
        return msgspec.structs.replace(item, count=0)
    return msgspec.structs.replace(
        item,
        scheduled_for=schedule.latest_between(after, last, 1)[0],
        range_from=schedule.next_after(after),
        count=count,
    )


def _begins_before(row: TaskRun, instant: datetime) -> bool:
    return row.range_from is not None and row.range_from < instant


def _correction(row: TaskRun, count: int) -> LedgerCount:
    return LedgerCount(row.status, row.reason, count)


def _stands_for(row: TaskRun) -> int:
    return row.missed_count + 1 if row.range_from is not None else 1


def _item(run: TaskRun) -> LedgerItem:
    fate = "ran"
    if run.status is RunStatus.SKIPPED:
        fate = "coalesced" if run.reason == "coalesced" else "skipped"
    return LedgerItem(run.scheduled_for, fate, run.reason, run.id, run.range_from, _stands_for(run))


def _begin_of(item: LedgerItem) -> datetime:
    return item.range_from or item.scheduled_for


def _is_coalesced(count: LedgerCount) -> bool:
    return count.status is RunStatus.SKIPPED and count.reason == "coalesced"


def _total(counts: Sequence[LedgerCount], belongs: Callable[[LedgerCount], bool]) -> int:
    return sum(count.count for count in counts if belongs(count))
