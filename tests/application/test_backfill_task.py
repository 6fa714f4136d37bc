"""The fire times of a past range are made up for."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tidemill.application.backfill_task import MAX_RUNS, Backfill, backfill_task
from tidemill.domain.task import Concurrency, Priority, Task
from tidemill.domain.task_run import Trigger
from tidemill.errors import InvalidInput, NotFound
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler

HOUR = timedelta(hours=1)


def backfill(
    scheduler: InlineScheduler, task: Task, since: datetime, until: datetime, **options: Any
) -> Backfill:
    return scheduler.do(backfill_task, task.id, since, until, **options)


def test_a_backfill_makes_exactly_the_fire_times_of_its_range(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="0 * * * *")
    made = backfill(scheduler, task, START - 3 * HOUR, START)

    assert made.fire_times == [START - 3 * HOUR, START - 2 * HOUR, START - HOUR]
    assert [run.scheduled_for for run in made.runs] == made.fire_times
    assert {run.trigger for run in made.runs} == {Trigger.BACKFILL}
    assert {run.priority for run in made.runs} == {Priority.LOW.level}
    assert {run.hold for run in made.runs} == {None}


def test_a_trial_makes_nothing(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="0 * * * *")
    made = backfill(scheduler, task, START - 3 * HOUR, START, dry_run=True)

    assert len(made.fire_times) == 3
    assert made.runs == scheduler.runs() == []


def test_a_backfill_collides_neither_with_live_firings_nor_with_another_one(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="0 * * * *", overlap="skip")
    scheduler.pass_time(3_601)
    scheduler.fire()
    live = scheduler.runs()
    for _ in range(2):
        backfill(scheduler, task, START + HOUR, scheduler.clock.now())

    assert len(scheduler.runs()) == 3
    assert scheduler.runs()[:1] == live
    scheduler.pass_time(3_600)
    scheduler.fire()
    assert scheduler.runs()[-1].reason == "overlap"  # for the live one; backfills are no overlap


def test_backfills_run_at_most_so_many_at_once(scheduler: InlineScheduler) -> None:
    scheduler.register(max_concurrent_tasks=10)
    task = scheduler.create(schedule="0 * * * *")
    made = backfill(scheduler, task, START - 5 * HOUR, START, max_parallel=2)

    assert len(scheduler.dispatch().messages[0].run_ids) == 2
    assert {run.concurrency_limit for run in made.runs} == {2}


@pytest.mark.parametrize(("max_parallel", "bound"), [(5, 3), (2, 2), (None, 3)])
def test_the_limit_of_the_task_binds_its_backfills_too(
    scheduler: InlineScheduler, max_parallel: int | None, bound: int
) -> None:
    scheduler.register(max_concurrent_tasks=10)
    task = scheduler.create(schedule="0 * * * *", concurrency=Concurrency("shared", 3))
    backfill(scheduler, task, START - 9 * HOUR, START, max_parallel=max_parallel)

    assert len(scheduler.dispatch().messages[0].run_ids) == bound
    assert {run.concurrency_key for run in scheduler.runs()} == {"shared"}


@pytest.mark.parametrize(
    ("schedule", "since", "until"),
    [
        (None, START - HOUR, START),
        ("@after 10m", START - HOUR, START),
        ("0 * * * *", START, START),
        ("0 * * * *", START, START - HOUR),
        ("0 * * * *", START, START + HOUR),
        ("* * * * * *", START - timedelta(seconds=MAX_RUNS + 1), START),
    ],
)
def test_what_cannot_be_made_up_for_is_refused(
    scheduler: InlineScheduler, schedule: str | None, since: datetime, until: datetime
) -> None:
    task = scheduler.create(schedule=schedule)
    with pytest.raises(InvalidInput):
        backfill(scheduler, task, since, until)
    assert scheduler.runs() == []


def test_an_unknown_task_is_not_found(scheduler: InlineScheduler) -> None:
    with pytest.raises(NotFound):
        scheduler.do(backfill_task, 4711, START - HOUR, START)
