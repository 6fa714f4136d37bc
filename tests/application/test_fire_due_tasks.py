"""A schedule's time has come."""

from datetime import timedelta

from tidemill.domain.task_run import Hold
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def seconds(*after_start: float) -> list[object]:
    return [START + timedelta(seconds=each) for each in after_start]


def test_a_fixed_delay_counts_from_each_end_again_and_again(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@after 10s")
    for _ in range(4):
        scheduler.pass_time(10)
        scheduler.fire()
        held = scheduler.start(scheduler.runs()[-1])
        scheduler.fire()  # nothing more is due while it runs
        scheduler.pass_time(3.5)
        scheduler.record(held)

    assert [run.scheduled_for for run in scheduler.runs()] == seconds(10, 23.5, 37, 50.5)
    assert scheduler.task(task).next_run_at == START + timedelta(seconds=64)


def test_a_wish_for_later_does_not_keep_firings_back_until_then(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s", overlap="skip")
    wish = scheduler.trigger(task, run_at=START + timedelta(hours=1))
    scheduler.pass_time(10)
    scheduler.fire()

    assert [run.status.value for run in scheduler.runs()] == ["pending", "pending"]
    assert scheduler.run(wish).hold is Hold.TIME


def test_a_wish_for_later_is_not_cancelled_by_a_firing_before_it(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s", overlap="cancel_running")
    wish = scheduler.trigger(task, run_at=START + timedelta(hours=1))
    scheduler.pass_time(10)
    scheduler.fire()

    assert scheduler.run(wish).status.value == "pending"


def test_a_firing_that_jitter_delays_still_stands_in_the_way_of_the_next(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create(schedule="@every 10s", overlap="skip", jitter_seconds=600)
    for _ in range(2):
        scheduler.pass_time(10)
        scheduler.fire()

    first, second = scheduler.runs()
    assert (first.hold, second.reason) == (Hold.TIME, "overlap")
