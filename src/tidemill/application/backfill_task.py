"""The fire times of a past range are made up for."""

from datetime import datetime, timedelta
from uuid import uuid4

import msgspec

from tidemill.application.note_ready import note_made
from tidemill.application.open_flow_runs import Turns, insert_roots
from tidemill.domain.new_run import new_run
from tidemill.domain.task import Priority, Task, concurrency_key_of
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import InvalidInput, NotFound, Problem
from tidemill.foundation.store import Transaction

MAX_RUNS = 10_000

_TICK = timedelta(microseconds=1)


class Backfill(msgspec.Struct, frozen=True):
    """A backfill: its fire times, and the runs made for them (none when only tried out)."""

    fire_times: list[datetime]
    runs: list[TaskRun]


def backfill_task(
    transaction: Transaction,
    task_id: int,
    since: datetime,
    until: datetime,
    *,
    max_parallel: int | None = None,
    dry_run: bool = False,
) -> Backfill:
    """One run for each fire time in [since, until) of the version in force, at low priority.

    At most `max_parallel` of them are under way at once: of a task that others depend on, so many
    flow runs, each from its beginning to its end, the earliest fire time first.

    Raises NotFound; InvalidInput where the task has no schedule of its own times, the range is
    empty or reversed, reaches beyond now, or holds more than MAX_RUNS fire times.
    """
    task = transaction.tasks([task_id]).get(task_id)
    if task is None:
        raise NotFound("task", task_id)
    schedule = task.schedule
    if schedule is None or schedule.kind == "after":
        raise InvalidInput(
            f"task {task_id} has no fire times to make up for: "
            f"its schedule is {task.definition.schedule or 'none'}"
        )
    if not since < until <= transaction.now:
        raise InvalidInput(
            "the range must end after it begins, and not in the future",
            [Problem("/to", "must lie after `from` and not after now")],
        )
    times = schedule.fires_between(since - _TICK, until - _TICK, MAX_RUNS + 1)
    if len(times) > MAX_RUNS:
        raise InvalidInput(
            f"the range holds more than {MAX_RUNS} fire times; make up for it in parts",
            [Problem("/from", f"more than {MAX_RUNS} fire times up to `to`")],
        )
    if dry_run:
        return Backfill(times, [])
    name = f"backfill:{uuid4().hex}"
    runs = [
        new_run(task, Trigger.BACKFILL, name, at, transaction.now, priority=Priority.LOW)
        for at in times
    ]
    turns = None
    if max_parallel is not None and task.has_dependents:
        turns = Turns(name, max_parallel)
    elif max_parallel is not None:
        runs = _bound(task, runs, name, max_parallel)
    runs = insert_roots(transaction, {task.id: task}, runs, turns)
    note_made(transaction, runs)
    return Backfill(times, runs)


def _bound(task: Task, runs: list[TaskRun], name: str, max_parallel: int) -> list[TaskRun]:
    """The limit of the task binds these runs too; they may only ask for less."""
    limit = task.definition.concurrency.limit
    key = concurrency_key_of(task.id, task.definition.concurrency) or name
    bound = max_parallel if limit is None else min(limit, max_parallel)
    return [
        msgspec.structs.replace(run, concurrency_key=key, concurrency_limit=bound) for run in runs
    ]
