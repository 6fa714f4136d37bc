"""A schedule's time has come."""

from datetime import timedelta

from tidemill.application.define_task import replace_task
from tidemill.domain.task_run import Hold
from tidemill.testing.builders import definition
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
