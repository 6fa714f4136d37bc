"""Runs are ended before their time."""

from datetime import timedelta

from tidemill.application.cancel_runs import cancel_runs
from tidemill.domain.events import EventType
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Retry
from tidemill.domain.task_run import Hold, TaskRun
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def cancel(scheduler: InlineScheduler, *runs: TaskRun) -> int:
    found = [scheduler.run(run) for run in runs]
    return scheduler.do(cancel_runs, found, "cancelled_by_user")


def test_a_run_that_has_not_started_is_cancelled_at_once_and_never_starts(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    task = scheduler.create(retry=Retry(max_retries=1, delay_seconds=60))
    retrying = scheduler.start(scheduler.trigger(task))
    scheduler.record(retrying, failure("exit_code", "exit code 1", exit_code=1))
    dispatched = scheduler.trigger(task)
    scheduler.dispatch()
    pending = scheduler.trigger(task)
    later = scheduler.trigger(task, run_at=START + timedelta(hours=1))
    runs = (retrying, dispatched, pending, later)

    assert cancel(scheduler, *runs) == 4
    assert cancel(scheduler, *runs) == 0
    assert {scheduler.run(run).status for run in runs} == {RunStatus.CANCELLED}
    assert {scheduler.run(run).hold for run in runs} == {None}
    scheduler.pass_time(7_200)
    scheduler.register("worker-2")
    assert scheduler.dispatch().messages == []
    assert scheduler.claim(dispatched.id, worker_id="worker-2") == []


def test_a_running_run_is_cancelled_once_its_worker_says_so(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))

    assert cancel(scheduler, held) == 1
    assert scheduler.run(held).status is RunStatus.CANCELLING
    assert cancel(scheduler, held) == 0  # asked for already
    scheduler.record(held, failure("signal", "ended by signal 15"), "cancel")
    assert scheduler.run(held).status is RunStatus.CANCELLED
    assert cancel(scheduler, held) == 0
    told = [event.type for event in scheduler.events(held)]
    assert told[-2:] == [EventType.CANCEL_REQUESTED, EventType.RUN_CANCELLED]


def test_a_run_that_ended_stays_as_it_ended(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.record(held)

    assert cancel(scheduler, held) == 0
    assert scheduler.run(held).status is RunStatus.SUCCEEDED


def test_a_cancelled_run_makes_way_for_the_one_that_waited_for_it(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create(schedule="@every 10s", overlap="queue")
    for _ in range(2):
        scheduler.pass_time(10)
        scheduler.fire()
    first, second = scheduler.runs()
    assert second.hold is Hold.OVERLAP
    cancel(scheduler, first)

    assert scheduler.run(second).hold is None
