"""A worker takes runs."""

from datetime import timedelta

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.manage_workers import drain_worker
from tidemill.domain.events import EventType
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency
from tidemill.domain.task_run import Hold, LeasedRun
from tidemill.testing.inline import LEASE, InlineScheduler


def test_a_claim_gives_a_lease_a_fence_and_an_attempt(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create())
    held = scheduler.start(run)

    row = scheduler.run(run)
    assert held == LeasedRun(**{name: getattr(row, name) for name in LeasedRun.__struct_fields__})
    assert (held.status, held.attempt, held.fence) == (RunStatus.RUNNING, 1, 1)
    assert row.lease_expires_at == scheduler.clock.now() + LEASE
    [attempt] = scheduler.attempts(run)
    assert (attempt.attempt, attempt.fence, attempt.worker_id) == (1, 1, "worker-1")


def test_a_doubled_message_starts_nothing_twice(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.register("worker-2")
    run = scheduler.trigger(scheduler.create())
    scheduler.dispatch()

    assert len(scheduler.claim(run.id, run.id)) == 1
    assert scheduler.claim(run.id) == []
    assert scheduler.claim(run.id, worker_id="worker-2") == []
    assert len(scheduler.attempts(run)) == 1


def test_what_is_unknown_or_moved_on_is_left_out(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    cancelled, taken = scheduler.trigger(task), scheduler.trigger(task)
    scheduler.dispatch()
    scheduler.do(cancel_runs, [scheduler.run(cancelled)], "cancelled_by_user")

    claimed = scheduler.claim(cancelled.id, 4711, taken.id)
    assert [each.run.id for each in claimed] == [taken.id]
    assert scheduler.run(cancelled).status is RunStatus.CANCELLED


def test_a_worker_that_drains_or_is_unknown_is_given_nothing(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create())
    scheduler.dispatch()
    scheduler.do(drain_worker, "worker-1")

    assert scheduler.claim(run.id) == []
    assert scheduler.claim(run.id, worker_id="nobody") == []
    assert scheduler.run(run).status is RunStatus.DISPATCHED


def test_a_limit_binds_at_the_claim_whatever_was_dispatched(scheduler: InlineScheduler) -> None:
    scheduler.register()
    wide = scheduler.create("wide", concurrency=Concurrency("key", 2))
    narrow = scheduler.create("narrow", concurrency=Concurrency("key", 1))
    first, second = scheduler.trigger(wide), scheduler.trigger(wide)
    scheduler.dispatch()
    third = scheduler.trigger(narrow)
    scheduler.claim(first.id)

    assert [each.run.id for each in scheduler.claim(second.id)] == [second.id]
    assert scheduler.claim(third.id) == []  # it is held, not dispatched
    scheduler.dispatch()
    assert scheduler.run(third).hold is Hold.LIMIT


def test_a_run_over_its_limit_goes_back_and_says_why(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(concurrency=Concurrency("key", 2))
    first, second = scheduler.trigger(task), scheduler.trigger(task)
    scheduler.dispatch()
    narrow = scheduler.create("narrow", concurrency=Concurrency("key", 3))
    third = scheduler.trigger(narrow)
    scheduler.dispatch()
    scheduler.register("worker-2")
    scheduler.claim(third.id, first.id)
    assert scheduler.claim(second.id, worker_id="worker-2") == []

    back = scheduler.run(second)
    assert (back.status, back.hold, back.dispatched_at) == (RunStatus.PENDING, Hold.LIMIT, None)
    withdrawn = scheduler.events(second)[-1]
    assert withdrawn.type is EventType.DISPATCH_WITHDRAWN
    assert withdrawn.data["detail"] == "2 of 2 running under 'key'"


def test_a_run_that_waited_too_long_is_timed_out_and_not_taken(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create(queue_timeout_seconds=5))
    scheduler.dispatch()
    scheduler.pass_time(5)

    assert scheduler.claim(run.id) == []
    ended = scheduler.run(run)
    assert (ended.status, ended.reason) == (RunStatus.TIMED_OUT, "queue_timeout")


def test_a_claim_tells_when_the_task_succeeded_before(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    scheduler.record(scheduler.start(scheduler.trigger(task)))
    done_at = scheduler.clock.now()
    scheduler.pass_time(60)
    run = scheduler.trigger(task)
    scheduler.dispatch()

    [claimed] = scheduler.claim(run.id)
    assert claimed.previous_success_at == done_at
    assert scheduler.clock.now() - done_at == timedelta(minutes=1)
