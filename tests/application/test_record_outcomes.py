"""An attempt ended."""

from datetime import timedelta

import pytest

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import delete_task
from tidemill.application.end_attempts import EXECUTOR_LOST
from tidemill.application.record_outcomes import record_outcomes
from tidemill.domain.events import EventType
from tidemill.domain.outcome import Outcome, failure, success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Retry
from tidemill.domain.task_run import AttemptOutcome, Hold, TaskRun
from tidemill.foundation.control_plane import AttemptReport, Cause
from tidemill.testing.inline import InlineScheduler

FAILED = failure("exit_code", "exit code 1", exit_code=1)
ENDED = failure("signal", "ended by signal 15", exit_code=-15)
STEADY = Retry(max_retries=2, delay_seconds=30, backoff="fixed", jitter=False)


def report(held: TaskRun, outcome: Outcome = FAILED, fence: int | None = None) -> AttemptReport:
    return AttemptReport(held.id, held.fence if fence is None else fence, "itself", outcome, 0)


def test_a_success_keeps_its_result(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    recorded = scheduler.record(held, success({"n": 1}, exit_code=0))

    ended = scheduler.run(held)
    assert (recorded.accepted, recorded.stale) == (1, 0)
    assert (ended.status, ended.reason, ended.result) == (RunStatus.SUCCEEDED, None, {"n": 1})
    assert ended.completed_at == scheduler.clock.now()
    assert ended.lease_expires_at is None
    assert scheduler.attempts(held)[0].outcome is AttemptOutcome.SUCCEEDED


def test_a_failure_without_attempts_left_is_final(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.record(held, FAILED)

    ended = scheduler.run(held)
    assert (ended.status, ended.reason, ended.exit_code) == (RunStatus.FAILED, "exit_code", 1)


def test_a_failure_with_attempts_left_is_tried_again_until_none_is(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create(retry=STEADY))
    for attempt in (1, 2):
        scheduler.record(scheduler.start(run), FAILED)
        planned = scheduler.run(run)
        assert (planned.status, planned.hold) == (RunStatus.RETRYING, Hold.TIME)
        assert planned.not_before == scheduler.clock.now() + timedelta(seconds=30)
        assert planned.attempt == attempt
        assert (planned.dispatched_at, planned.started_at) == (None, None)
        scheduler.pass_time(30)
    scheduler.record(scheduler.start(run), FAILED)

    assert scheduler.run(run).status is RunStatus.FAILED
    assert [each.outcome for each in scheduler.attempts(run)] == [AttemptOutcome.FAILED] * 3


def test_a_stale_report_changes_nothing_and_is_told(scheduler: InlineScheduler) -> None:
    scheduler.register()
    old = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(11)
    scheduler.recover()
    scheduler.register("worker-2")
    new = scheduler.start(scheduler.run(old), "worker-2")
    before = scheduler.run(new)
    recorded = scheduler.record(old, success("old"))

    after = scheduler.run(new)
    assert (recorded.accepted, recorded.stale) == (0, 1)
    assert after.event_seq == before.event_seq + 1
    assert (after.status, after.result, after.fence) == (RunStatus.RUNNING, None, 2)
    told = scheduler.events(new)[-1]
    assert told.type is EventType.STALE_WRITE_REFUSED
    assert told.data == {"fences": [1], "held": 2}
    scheduler.record(new, success("new"))
    assert scheduler.run(new).result == "new"


def test_a_report_that_comes_twice_counts_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.record(held, success(1))
    recorded = scheduler.record(held, success(2))

    assert (recorded.accepted, recorded.stale) == (0, 1)
    assert scheduler.run(held).result == 1


def test_reports_of_one_run_in_one_batch_count_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    other = scheduler.start(scheduler.trigger(scheduler.create("other")))
    reports = [report(held, success(1)), report(held, success(2)), report(held, fence=0)]
    recorded = scheduler.do(record_outcomes, [*reports, report(other, success(3))])

    assert (recorded.accepted, recorded.stale) == (2, 2)
    assert scheduler.run(held).result == 1
    assert scheduler.run(other).result == 3


def test_a_report_of_a_run_that_is_gone_is_stale(scheduler: InlineScheduler) -> None:
    gone = AttemptReport(4711, 1, "itself", success(), 0)

    assert scheduler.do(record_outcomes, [gone]).stale == 1


@pytest.mark.parametrize(
    ("outcome", "closed"),
    [(ENDED, AttemptOutcome.CANCELLED), (success(1), AttemptOutcome.SUCCEEDED)],
)
def test_a_run_that_was_to_be_cancelled_is_cancelled_however_it_ends(
    scheduler: InlineScheduler, outcome: Outcome, closed: AttemptOutcome
) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create(retry=STEADY)))
    scheduler.do(cancel_runs, [scheduler.run(held)], "cancelled_by_user")
    scheduler.record(held, outcome, "cancel")

    ended = scheduler.run(held)
    assert (ended.status, ended.reason) == (RunStatus.CANCELLED, "cancelled_by_user")
    assert scheduler.attempts(held)[0].outcome is closed


@pytest.mark.parametrize(
    ("cause", "reason", "is_tried_again"),
    [("timeout", "execution_timeout", True), ("deadline", "deadline", False)],
)
def test_an_attempt_that_ran_out_of_time_says_which_time(
    scheduler: InlineScheduler, cause: Cause, reason: str, is_tried_again: bool
) -> None:
    scheduler.register()
    once = scheduler.start(scheduler.trigger(scheduler.create("once")))
    scheduler.record(once, ENDED, cause)
    more = scheduler.start(scheduler.trigger(scheduler.create("more", retry=STEADY)))
    scheduler.record(more, ENDED, cause)

    assert scheduler.run(once).status is RunStatus.TIMED_OUT
    assert scheduler.run(once).reason == reason
    expected = RunStatus.RETRYING if is_tried_again else RunStatus.TIMED_OUT
    assert scheduler.run(more).status is expected


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [("drain", ENDED), ("itself", failure(EXECUTOR_LOST, "its process fell"))],
)
def test_a_run_that_is_handed_back_loses_no_attempt(
    scheduler: InlineScheduler, cause: Cause, outcome: Outcome
) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create())
    for _ in range(5):
        scheduler.record(scheduler.start(run), outcome, cause)
    scheduler.record(scheduler.start(run))

    ended = scheduler.run(run)
    assert (ended.status, ended.attempt, ended.hand_backs) == (RunStatus.SUCCEEDED, 6, 5)
    assert scheduler.attempts(run)[0].outcome is AttemptOutcome.HANDED_BACK


def test_a_run_of_a_deleted_task_is_tried_no_more(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(retry=STEADY)
    held = scheduler.start(scheduler.trigger(task))
    drained = scheduler.start(scheduler.trigger(task))
    scheduler.do(delete_task, task.id)
    scheduler.record(held, FAILED)
    scheduler.record(drained, ENDED, "drain")

    assert scheduler.run(held).status is RunStatus.FAILED
    assert scheduler.run(drained).reason == "task_deleted"


def test_an_end_lets_the_next_of_its_task_and_of_its_key_go(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@every 10s", overlap="queue")
    scheduler.pass_time(10)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    scheduler.pass_time(9)
    scheduler.renew(held)
    scheduler.pass_time(1)
    scheduler.fire()
    waiting = scheduler.runs(task)[1]
    assert waiting.hold is Hold.OVERLAP
    scheduler.record(held, FAILED)

    assert scheduler.run(waiting).hold is None


def test_a_run_that_is_to_be_tried_again_leaves_its_key_but_not_its_place(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    task = scheduler.create(
        schedule="@every 10s", overlap="queue", retry=STEADY, concurrency=Concurrency("key", 1)
    )
    other = scheduler.create("other", concurrency=Concurrency("key", 1))
    scheduler.pass_time(10)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    scheduler.pass_time(9)
    scheduler.renew(held)
    scheduler.pass_time(1)
    scheduler.fire()
    successor = scheduler.runs(task)[1]
    stranger = scheduler.trigger(other)
    scheduler.dispatch()
    assert scheduler.run(stranger).hold is Hold.LIMIT
    scheduler.record(held, FAILED)

    assert scheduler.run(stranger).hold is None
    assert scheduler.run(successor).hold is Hold.OVERLAP


def test_a_retry_waits_in_the_queue_anew(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create(retry=STEADY, queue_timeout_seconds=20))
    scheduler.record(scheduler.start(run), FAILED)
    scheduler.pass_time(29)
    assert scheduler.recover().overdue == 0
    scheduler.pass_time(1 + 19)
    scheduler.dispatch()
    assert scheduler.recover().overdue == 0
    scheduler.pass_time(1)
    scheduler.recover()

    assert scheduler.run(run).reason == "queue_timeout"
