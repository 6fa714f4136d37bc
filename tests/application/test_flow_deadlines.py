"""A flow run has an instant by which all of it must have ended."""

from datetime import timedelta

import pytest
from tests.application.test_flow_runs import after, end, flow_run, statuses

from tidemill.application.time_out_runs import time_out_flow_runs
from tidemill.domain.flow_run import FlowStatus
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


@pytest.fixture(autouse=True)
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


def test_what_has_not_started_is_timed_out_when_the_deadline_of_the_flow_run_passes(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60)
    b = scheduler.create("b", dependencies=after(a))
    scheduler.create("c", dependencies=after(b))
    scheduler.create("complain", dependencies=after(a, condition="failed"))
    root = scheduler.trigger(a)
    assert flow_run(scheduler, root.flow_run_id).deadline_at == START + timedelta(seconds=60)
    scheduler.pass_time(59)
    assert not scheduler.recover().overdue
    scheduler.pass_time(1)

    assert scheduler.recover().overdue == 4
    assert set(statuses(scheduler).values()) == {"timed_out"}
    assert {run.reason for run in scheduler.runs()} == {"deadline"}
    ended = flow_run(scheduler, root.flow_run_id)
    assert (ended.status, ended.reason) == (FlowStatus.FAILED, "deadline")
    assert not scheduler.recover().found_anything


def test_what_runs_has_as_long_as_is_left_of_its_flow_run_and_ends_as_timed_out(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60, deadline_seconds=1_000)
    scheduler.create("c", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.pass_time(10)
    scheduler.dispatch()
    [claimed] = scheduler.claim(root.id)
    assert claimed.deadline_seconds == 50
    for _ in range(6):
        scheduler.pass_time(9)
        scheduler.renew(claimed.run)
    scheduler.recover()
    assert statuses(scheduler) == {"a": "running", "c": "timed_out"}
    assert flow_run(scheduler, root.flow_run_id).status is FlowStatus.RUNNING
    scheduler.record(claimed.run, failure("signal", "ended"), "deadline")

    assert (scheduler.run(root).status, scheduler.run(root).reason) == (
        RunStatus.TIMED_OUT, "deadline",
    )  # fmt: skip
    ended = flow_run(scheduler, root.flow_run_id)
    assert (ended.status, ended.reason) == (FlowStatus.FAILED, "deadline")


def test_a_run_that_is_released_late_has_what_is_left_of_its_flow_run(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60)
    b = scheduler.create("b", dependencies=after(a), deadline_seconds=1_000)
    c = scheduler.create("c", dependencies=after(a), deadline_seconds=5)
    scheduler.trigger(a)
    scheduler.pass_time(20)
    end(scheduler, "a")

    deadlines = [run.deadline_at for task in (b, c) for run in scheduler.runs(task)]
    assert deadlines == [START + timedelta(seconds=60), START + timedelta(seconds=25)]


def test_nothing_that_is_released_after_the_deadline_is_claimed(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60)
    scheduler.create("complain", dependencies=after(a, condition="failed"))
    root = scheduler.trigger(a)
    held = scheduler.start(root)
    scheduler.pass_time(60)
    scheduler.record(held, failure("signal", "ended"), "deadline")
    assert statuses(scheduler) == {"a": "timed_out", "complain": "pending"}
    scheduler.dispatch()
    complain = scheduler.runs()[-1]

    assert scheduler.claim(complain.id) == []
    assert statuses(scheduler) == {"a": "timed_out", "complain": "timed_out"}
    assert flow_run(scheduler, root.flow_run_id).reason == "deadline"


def test_the_deadline_counts_from_when_the_first_run_may_start(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60)
    scheduler.create("b", dependencies=after(a))
    later = scheduler.clock.now() + timedelta(hours=1)
    root = scheduler.trigger(a, run_at=later)

    assert flow_run(scheduler, root.flow_run_id).deadline_at == later + timedelta(seconds=60)


def test_a_flow_run_that_ends_in_time_or_has_no_deadline_gives_no_reason(
    scheduler: InlineScheduler,
) -> None:
    for name, seconds in (("in-time", 60), ("unbound", None)):
        task = scheduler.create(name, flow_deadline_seconds=seconds)
        scheduler.create(f"after-{name}", dependencies=after(task))
        root = scheduler.trigger(task)
        end(scheduler, name, fails=True)
        ended = flow_run(scheduler, root.flow_run_id)
        assert (ended.status, ended.reason) == (FlowStatus.FAILED, None)
    scheduler.pass_time(3_600)
    assert not scheduler.recover().overdue


def test_an_overdue_flow_run_is_ended_whole_however_little_a_sweep_takes(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", flow_deadline_seconds=60)
    for number in range(20):
        scheduler.create(f"b{number}", dependencies=after(a))
    scheduler.trigger(a)
    scheduler.pass_time(60)
    scheduler.do(time_out_flow_runs, 1)

    assert set(statuses(scheduler).values()) == {"timed_out"}


def test_whoever_is_lost_after_the_deadline_of_its_flow_run_is_not_tried_again(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", flow_deadline_seconds=5)
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.start(root)
    scheduler.pass_time(11)
    scheduler.recover()

    assert statuses(scheduler) == {"a": "timed_out", "b": "timed_out"}
    assert flow_run(scheduler, root.flow_run_id).reason == "deadline"
