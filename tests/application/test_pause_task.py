"""A task stops firing by itself, and starts again."""

from datetime import timedelta
from typing import Any

import pytest

from tidemill.application.define_task import replace_task
from tidemill.application.pause_task import pause_task, resume_task
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Misfire, TaskStatus
from tidemill.domain.task_run import Hold
from tidemill.errors import NotFound, Unavailable
from tidemill.testing.builders import definition
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def fates(scheduler: InlineScheduler) -> list[tuple[int, str, str | None]]:
    """Of each firing: how many seconds after the start it was due, and what became of it."""
    return [
        (int((run.scheduled_for - START).total_seconds()), run.status.value, run.reason)
        for run in sorted(scheduler.runs(), key=lambda run: run.scheduled_for)
    ]


def test_nothing_fires_between_a_pause_and_the_resume(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s", overlap="allow")
    scheduler.pass_time(15)
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(20)
    scheduler.fire()
    assert fates(scheduler) == [(10, "pending", None)]
    scheduler.do(resume_task, task.id)
    scheduler.pass_time(5)
    scheduler.fire()

    assert fates(scheduler) == [
        (10, "pending", None),
        (20, "skipped", "paused"),
        (30, "skipped", "paused"),
        (40, "pending", None),
    ]


def test_a_pause_waits_for_more_due_firings_than_one_transaction_holds(
    scheduler: InlineScheduler,
) -> None:
    wide = Misfire(grace_seconds=1e6)
    task = scheduler.create(schedule="@every 1s", overlap="allow", misfire=wide)
    scheduler.pass_time(10_500)
    with pytest.raises(Unavailable, match="come first; try again"):
        scheduler.do(pause_task, task.id)
    assert scheduler.runs() == []
    scheduler.fire()
    scheduler.do(pause_task, task.id)

    assert {run.status for run in scheduler.runs()} == {RunStatus.PENDING}
    assert len(scheduler.runs()) == 10_500


def test_pausing_and_resuming_twice_change_nothing(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s")
    paused = scheduler.do(pause_task, task.id)
    scheduler.pass_time(5)
    assert scheduler.do(pause_task, task.id) == paused
    scheduler.pass_time(10)
    resumed = scheduler.do(resume_task, task.id)
    scheduler.pass_time(1)
    assert scheduler.do(resume_task, task.id) == resumed

    assert resumed.status is TaskStatus.ACTIVE
    assert fates(scheduler) == [(10, "skipped", "paused")]


def test_a_paused_task_still_runs_by_hand(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@every 10s")
    scheduler.do(pause_task, task.id)
    held = scheduler.start(scheduler.trigger(task))
    scheduler.record(held)

    assert scheduler.run(held).status is RunStatus.SUCCEEDED


def test_a_firing_that_only_its_jitter_delays_starts_though_the_task_was_paused_since(
    scheduler: InlineScheduler,
) -> None:
    # It fired before the pause; a pause withdraws what is not yet due, and this was.
    scheduler.register()
    task = scheduler.create(schedule="@every 10s", jitter_seconds=600)
    scheduler.pass_time(10)
    scheduler.fire()
    [run] = scheduler.runs()
    assert run.hold is Hold.TIME
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(600)
    scheduler.register("worker-2")

    assert scheduler.start(run, "worker-2").status is RunStatus.RUNNING


def test_a_pause_of_a_year_is_one_row(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 1s")
    scheduler.do(pause_task, task.id)
    scheduler.clock.advance(timedelta(days=365))
    scheduler.do(resume_task, task.id)

    [row] = scheduler.runs()
    assert (row.reason, row.missed_count + 1) == ("paused", 365 * 86_400)


def test_an_edit_while_paused_accounts_for_the_old_times_and_resumes_with_the_new(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s")
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(15)
    wanted = definition(schedule="@every 20s")
    scheduler.do(replace_task, task.id, wanted, lambda each: ())
    assert scheduler.fire().next_due_at is None
    scheduler.pass_time(25)
    scheduler.do(resume_task, task.id)

    assert fates(scheduler) == [(10, "skipped", "paused"), (35, "skipped", "paused")]
    assert scheduler.task(task).next_run_at == START + timedelta(seconds=55)


def test_a_task_that_is_born_paused_fires_once_it_is_resumed(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s", status=TaskStatus.PAUSED)
    scheduler.pass_time(10)
    assert scheduler.fire().tasks == 0
    scheduler.do(resume_task, task.id)
    scheduler.pass_time(10)

    assert scheduler.fire().tasks == 1


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_fixed_delay_that_was_paused_counts_from_the_resume_or_the_end_that_follows(
    scheduler: InlineScheduler, ends_first: bool
) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@after 10s")
    scheduler.pass_time(10)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(5)
    acts: list[Any] = [
        lambda: scheduler.record(held),
        lambda: scheduler.do(resume_task, task.id),
    ]
    for act in acts if ends_first else reversed(acts):
        act()
        scheduler.pass_time(1)

    last_act = START + timedelta(seconds=16)
    assert scheduler.task(task).next_run_at == last_act + timedelta(seconds=10)


def test_a_one_shot_whose_time_passed_in_a_pause_is_skipped_for_good(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@at 2026-01-01T00:00:10Z")
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(60)

    assert scheduler.do(resume_task, task.id).next_run_at is None
    assert fates(scheduler) == [(10, "skipped", "paused")]


def test_an_unknown_task_is_not_found(scheduler: InlineScheduler) -> None:
    for use_case in (pause_task, resume_task):
        with pytest.raises(NotFound):
            scheduler.do(use_case, 4711)
