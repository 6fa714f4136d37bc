"""A schedule's time has come: a run is created, and the schedule moves on, in one transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from tidemill.application.cancel_runs import cancel_runs, skip_runs
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.note_ready import Freed, note_made, note_ready
from tidemill.application.open_flow_runs import insert_roots
from tidemill.domain.misfire import MisfirePlan, PlannedFire, plan_misfires
from tidemill.domain.new_run import fired_run, rows_of_skips, skipped_run
from tidemill.domain.overlap import UnfinishedRun, plan_overlaps
from tidemill.domain.schedule import Schedule
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.domain.task import Priority, Task
from tidemill.domain.task_run import Hold, TaskRun, rank_of
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


def fire_due_tasks(
    transaction: Transaction,
    limit: int,
    strategies: StrategyRegistry,
    *,
    may_dispatch: bool = True,
) -> Fired:
    """Fire up to `limit` due tasks, the longest overdue first, and dispatch what is ready.

    The caller publishes it once this is committed. Where it may not dispatch, whoever comes next is
    told: workers who claim by themselves, and dispatchers who reach the queue.
    """
    due = transaction.due_tasks(limit)
    if not due:
        return Fired(0, [], transaction.next_due_at())
    plain = [task.id for task in due if task.is_plain]
    freed = _fire_plainly(transaction, plain)
    others = transaction.tasks([task.id for task in due if not task.is_plain])
    fired, created = _fire(transaction, [others[task.id] for task in due if task.id in others])
    transaction.announce(Topic.EVENTS)
    messages: list[RunMessage] = []
    if may_dispatch:
        dispatched = dispatch_ready_runs(transaction, limit, strategies)
        messages = dispatched.messages
        if dispatched.has_more or any(run.hold is Hold.TIME for run in created):
            transaction.announce(Topic.READY)
    else:
        note_ready(transaction, freed)
        note_made(transaction, created)
    return Fired(len(plain) + fired, messages, transaction.next_due_at())


def _fire_plainly(transaction: Transaction, task_ids: Sequence[int]) -> list[Freed]:
    if not task_ids:
        return []
    now = transaction.now
    ranks = {priority: rank_of(now, priority.level) for priority in Priority}
    made = transaction.fire_plainly(task_ids, ranks)
    return [Freed(lane, None, has_key) for lane, has_key in made]


def fire_tasks(transaction: Transaction, tasks: Sequence[Task]) -> None:
    """Account for the fire times of these tasks up to now; the rows are locked by the caller.

    No transaction makes more rows than it should: what is left stays due, in its order.
    """
    _, created = _fire(transaction, tasks)
    note_made(transaction, created)


def _fire(transaction: Transaction, tasks: Sequence[Task]) -> tuple[int, Sequence[TaskRun]]:
    """How many of the tasks fired, and the rows that were made."""
    if not tasks:
        return 0, []
    unfinished = _unfinished_by_task(transaction, tasks)
    firing = _Firing(transaction.now)
    for task in tasks:
        if len(firing.rows) >= _ROWS_AT_ONCE:
            break
        firing.add(task, unfinished.get(task.id, []))
    created = insert_roots(transaction, {task.id: task for task in tasks}, firing.rows)
    coalesced = transaction.insert_runs(firing.coalesced(created))
    transaction.advance_tasks(firing.advances)
    _make_way(transaction, firing)
    return len(firing.advances), [*created, *coalesced]


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
