"""A schedule's time has come: a run is created, and the schedule moves on, in one transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from tidemill.application.cancel_runs import cancel_runs, skip_runs
from tidemill.application.hand_over import hand_over, messages_of
from tidemill.domain.misfire import MisfirePlan, PlannedFire, plan_misfires
from tidemill.domain.new_run import fired_run, rows_of_skips, skipped_run
from tidemill.domain.overlap import UnfinishedRun, plan_overlaps
from tidemill.domain.run_status import RunStatus
from tidemill.domain.schedule import Schedule
from tidemill.domain.task import Task
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.store import TaskAdvance, Transaction
from tidemill.foundation.wakeups import Topic

_JUST_BEFORE = timedelta(microseconds=1)
_ROWS_AT_ONCE = 10_000  # tasks that come after so many wait for the next transaction


class Fired(msgspec.Struct, frozen=True):
    """How many tasks fired, what to publish, and when the next one is due."""

    tasks: int
    messages: list[RunMessage]
    next_due_at: datetime | None


def fire_due_tasks(transaction: Transaction, limit: int) -> Fired:
    """Fire up to `limit` due tasks, the longest overdue first.

    What is ready at once is handed over; the caller publishes it once this is committed.
    """
    fired, created = _fire(transaction, transaction.due_tasks(limit), is_published=True)
    return Fired(fired, messages_of(created), transaction.next_due_at())


def fire_tasks(transaction: Transaction, tasks: Sequence[Task]) -> None:
    """Account for the fire times of these tasks up to now; the rows are locked by the caller.

    No transaction makes more rows than it should: what is left stays due, in its order.
    """
    _fire(transaction, tasks, is_published=False)


def _fire(
    transaction: Transaction, tasks: Sequence[Task], *, is_published: bool
) -> tuple[int, Sequence[TaskRun]]:
    """How many of the tasks fired, and the rows that were made."""
    if not tasks:
        return 0, []
    unfinished = _unfinished_by_task(transaction, tasks)
    firing = _Firing(transaction.now)
    for task in tasks:
        if len(firing.rows) >= _ROWS_AT_ONCE:
            break
        firing.add(task, unfinished.get(task.id, []))
    rows = hand_over(transaction, firing.rows) if is_published else firing.rows
    created = transaction.insert_runs(rows)
    transaction.insert_runs(firing.coalesced(created))
    transaction.advance_tasks(firing.advances)
    _make_way(transaction, firing)
    transaction.announce(Topic.EVENTS)
    if any(run.status is RunStatus.PENDING for run in created):
        transaction.announce(Topic.READY)
    return len(firing.advances), created


def _unfinished_by_task(
    transaction: Transaction, tasks: Sequence[Task]
) -> dict[int, list[UnfinishedRun]]:
    binding = [task.id for task in tasks if task.definition.overlap != "allow"]
    found: dict[int, list[UnfinishedRun]] = {}
    if binding:
        for run in transaction.unfinished_runs(binding):
            found.setdefault(run.task_id, []).append(run)
    return found


class _Firing:
    """What a batch of tasks comes to, before anything is written."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.rows: list[TaskRun] = []
        self.advances: list[TaskAdvance] = []
        self.superseded: list[int] = []
        self.cancelled: list[int] = []
        self._coalesced: list[tuple[TaskRun, datetime]] = []

    def add(self, task: Task, unfinished: list[UnfinishedRun]) -> None:
        schedule = task.schedule
        assert schedule is not None
        assert task.next_run_at is not None
        plan = plan_misfires(
            schedule, task.next_run_at - _JUST_BEFORE, self.now, task.definition.misfire
        )
        started = self._start(task, plan.runs, unfinished)
        self._account(task, plan)
        self.advances.append(
            TaskAdvance(
                task.id,
                self._next_run_at(task, schedule, plan.until, leaves_open=started),
                self.now if started else task.last_run_at,
            )
        )

    def _start(
        self, task: Task, fires: Sequence[PlannedFire], unfinished: list[UnfinishedRun]
    ) -> bool:
        """Plan the runs of these firings; whether any of them is to run."""
        plan = plan_overlaps(task.definition.overlap, unfinished, fires)
        for fire, hold in plan.runs:
            run = fired_run(task, fire.scheduled_for, self.now, fire.missed_count)
            self.rows.append(run if hold is None else msgspec.structs.replace(run, hold=hold))
        self.rows += [
            skipped_run(task, fire.scheduled_for, self.now, "overlap") for fire in plan.skipped
        ]
        self.superseded += plan.superseded
        self.cancelled += plan.cancelled
        return bool(plan.runs)

    def _account(self, task: Task, plan: MisfirePlan) -> None:
        """Give every firing that is not to run its row."""
        for row, coalesced_into in rows_of_skips(task, plan, self.now):
            if coalesced_into is None:
                self.rows.append(row)
            else:
                self._coalesced.append((row, coalesced_into))

    def _next_run_at(
        self, task: Task, schedule: Schedule, until: datetime, *, leaves_open: bool
    ) -> datetime | None:
        if schedule.kind != "after":
            return schedule.next_after(until)
        # A fixed delay counts from the run's end; whoever ends the run sets the next time.
        return None if leaves_open else task.next_after_end(self.now)

    def coalesced(self, created: Sequence[TaskRun]) -> list[TaskRun]:
        """The rows that point to others, now that those have ids."""
        ids = {(run.task_id, run.scheduled_for): run.id for run in created}
        return [
            msgspec.structs.replace(row, coalesced_into=ids.get((row.task_id, into)))
            for row, into in self._coalesced
        ]


def _make_way(transaction: Transaction, firing: _Firing) -> None:
    """End the earlier runs that new ones take the place of."""
    if not firing.superseded and not firing.cancelled:
        return
    superseded, cancelled = set(firing.superseded), set(firing.cancelled)
    runs = transaction.runs(superseded | cancelled)
    skip_runs(transaction, [runs[run_id] for run_id in sorted(superseded)], "overlap")
    cancel_runs(transaction, [runs[run_id] for run_id in sorted(cancelled)], "overlap")
