"""Owners vanish, messages get lost, deadlines pass."""

from datetime import timedelta

import pytest

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import delete_task
from tidemill.application.recover_lost_runs import (
    recover_after_restart,
    recover_from_dead_workers,
)
from tidemill.application.renew_leases import renew_leases
from tidemill.domain.events import EventType
from tidemill.domain.lease import MAX_LOSSES
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency
from tidemill.domain.task_run import AttemptOutcome, Hold, move
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.store import Transaction
from tidemill.testing.inline import InlineScheduler


def test_a_run_whose_lease_is_over_is_taken_back_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(9)
    assert scheduler.recover().lost == 0
    scheduler.pass_time(1)

    assert scheduler.recover().lost == 1
    assert scheduler.recover().lost == 0
    taken = scheduler.run(held)
    assert (taken.status, taken.reason) == (RunStatus.RETRYING, "worker_lost")
    assert [each.outcome for each in scheduler.attempts(held)] == [AttemptOutcome.LOST]


def test_a_run_is_taken_back_though_the_clock_was_put_back_by_an_hour(
    scheduler: InlineScheduler,
) -> None:
    gone = scheduler.register("worker-1")
    held = scheduler.start(scheduler.trigger(scheduler.create()), gone)
    scheduler.clock.put(-timedelta(hours=1))
    assert not scheduler.recover().found_anything  # both may be alive still
    scheduler.pass_time(10.1)

    found = scheduler.recover()
    assert (found.lost, found.workers_lost) == (1, 1)
    assert scheduler.run(held).status is RunStatus.RETRYING


def test_nobody_is_given_up_when_the_clock_is_put_ahead_who_has_a_lease_to_speak_in(
    scheduler: InlineScheduler,
) -> None:
    worker_id = scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()), worker_id)
    expected = scheduler.clock.now()
    scheduler.clock.put(timedelta(hours=1))
    assert not scheduler.recover(expected).found_anything
    scheduler.pass_time(9)
    assert not scheduler.recover(scheduler.clock.now()).found_anything
    scheduler.pass_time(1.1)

    found = scheduler.recover(scheduler.clock.now())
    assert (found.lost, found.workers_lost) == (1, 1)
    assert scheduler.run(held).status is RunStatus.RETRYING


def test_whose_lease_was_over_already_is_given_up_though_the_clock_is_put_ahead(
    scheduler: InlineScheduler,
) -> None:
    scheduler.start(scheduler.trigger(scheduler.create()), scheduler.register())
    scheduler.pass_time(11)
    expected = scheduler.clock.now()
    scheduler.clock.put(timedelta(hours=1))

    assert scheduler.recover(expected).lost == 1


def test_a_worker_that_goes_on_loses_nothing_when_the_clock_is_put_back(
    scheduler: InlineScheduler,
) -> None:
    worker_id = scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()), worker_id)
    scheduler.clock.put(-timedelta(hours=1))
    for _ in range(5):
        assert not scheduler.recover().found_anything
        scheduler.do(renew_leases, worker_id, {held.id: held.fence}, timedelta(seconds=10))
        scheduler.pass_time(5)

    scheduler.record(held)
    assert (scheduler.run(held).status, scheduler.run(held).attempt) == (RunStatus.SUCCEEDED, 1)


def test_a_lost_run_is_run_again_though_it_has_no_attempts_left(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(10)
    scheduler.recover()
    scheduler.register("worker-2")
    again = scheduler.start(scheduler.run(held), "worker-2")
    scheduler.record(again)

    ended = scheduler.run(held)
    assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCEEDED, 2, 1)


def test_a_run_that_takes_worker_after_worker_down_is_poison(scheduler: InlineScheduler) -> None:
    run = scheduler.trigger(scheduler.create())
    for number in range(MAX_LOSSES):
        worker_id = scheduler.register(f"worker-{number}")
        scheduler.start(run, worker_id)
        scheduler.pass_time(11)
        scheduler.recover()

    ended = scheduler.run(run)
    assert (ended.status, ended.reason, ended.losses) == (RunStatus.FAILED, "poison", MAX_LOSSES)
    assert ended.error_message == "lost 3 workers while running"


def test_a_run_that_was_being_cancelled_is_cancelled_at_the_end_of_its_lease(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.do(cancel_runs, [scheduler.run(held)], "cancelled_by_user")
    scheduler.pass_time(10)
    scheduler.recover()

    ended = scheduler.run(held)
    assert (ended.status, ended.reason) == (RunStatus.CANCELLED, "cancelled_by_user")
    assert scheduler.attempts(held)[0].outcome is AttemptOutcome.LOST


def test_a_lost_run_of_a_deleted_task_is_not_run_again(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    held = scheduler.start(scheduler.trigger(task))
    scheduler.do(delete_task, task.id)
    scheduler.pass_time(10)
    scheduler.recover()

    assert scheduler.run(held).status is RunStatus.FAILED


def test_a_run_that_was_being_cancelled_when_its_task_is_deleted_ends_as_cancelled(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    task = scheduler.create()
    held = scheduler.start(scheduler.trigger(task))
    scheduler.do(cancel_runs, [scheduler.run(held)], "cancelled_by_user")
    scheduler.do(delete_task, task.id)
    scheduler.record(held, cause="cancel")

    assert scheduler.run(held).status is RunStatus.CANCELLED


def test_a_deadline_ends_a_run_whose_worker_is_gone(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create(deadline_seconds=8)))
    scheduler.pass_time(10)
    scheduler.recover()

    ended = scheduler.run(held)
    assert (ended.status, ended.reason) == (RunStatus.TIMED_OUT, "deadline")


@pytest.mark.parametrize(
    ("field", "reason"),
    [("queue_timeout_seconds", "queue_timeout"), ("deadline_seconds", "deadline")],
)
def test_a_run_that_waits_too_long_is_timed_out(
    scheduler: InlineScheduler, field: str, reason: str
) -> None:
    run = scheduler.trigger(scheduler.create(**{field: 5}))
    scheduler.pass_time(4)
    assert scheduler.recover().overdue == 0
    scheduler.pass_time(1)

    assert scheduler.recover().overdue == 1
    assert scheduler.recover().overdue == 0
    ended = scheduler.run(run)
    assert (ended.status, ended.reason) == (RunStatus.TIMED_OUT, reason)


def test_a_run_that_runs_is_not_bound_by_the_time_in_the_queue(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create(queue_timeout_seconds=5)))
    scheduler.pass_time(8)
    scheduler.recover()

    assert scheduler.run(held).status is RunStatus.RUNNING


def test_a_dispatched_run_that_nobody_claims_is_dispatched_again(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create())
    assert scheduler.dispatch().messages[0].run_ids == (run.id,)
    scheduler.pass_time(8)
    scheduler.renew()
    scheduler.pass_time(8)
    scheduler.renew()
    scheduler.pass_time(8)
    scheduler.renew()
    scheduler.pass_time(6)
    scheduler.renew()

    assert scheduler.recover().redispatched == 1
    assert scheduler.dispatch().messages[0].run_ids == (run.id,)


def test_a_worker_that_says_nothing_is_lost(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.pass_time(10)
    assert scheduler.recover().workers_lost == 0
    scheduler.pass_time(1)
    assert scheduler.recover().workers_lost == 1

    worker = scheduler.look(lambda reads: reads.worker("worker-1"))
    assert worker is not None
    assert worker.status is WorkerStatus.LOST
    assert scheduler.recover().workers_lost == 0


def test_a_lost_message_is_noticed_once_its_workers_have_room(scheduler: InlineScheduler) -> None:
    scheduler.register(max_concurrent_tasks=2)
    task = scheduler.create(overlap="allow")
    running = scheduler.start(scheduler.trigger(task))
    waiting = [scheduler.trigger(task) for _ in range(2)]
    scheduler.dispatch()
    scheduler.pass_time(2)
    assert scheduler.recover().redispatched == 0  # it may be on its way
    scheduler.pass_time(1)

    assert scheduler.recover().redispatched == 1  # there is room for one
    assert scheduler.run(waiting[0]).status is RunStatus.PENDING
    assert scheduler.run(waiting[1]).status is RunStatus.DISPATCHED
    claimed = scheduler.claim(waiting[1].id)  # its message came after all
    assert len(claimed) == 1
    third = scheduler.trigger(task)
    scheduler.record(running)
    assert sum(len(each.run_ids) for each in scheduler.dispatch().messages) == 2
    scheduler.start(third)
    scheduler.pass_time(4)
    assert scheduler.recover().redispatched == 0  # all are busy: it waits for them
    scheduler.record(claimed[0].run)
    assert scheduler.recover().redispatched == 1


def test_room_that_nobody_told_of_is_found_by_the_sweep(scheduler: InlineScheduler) -> None:
    scheduler.register()
    narrow = scheduler.create("narrow", concurrency=Concurrency("key", 1))
    held = scheduler.start(scheduler.trigger(narrow))
    waiting = scheduler.trigger(scheduler.create("wide", concurrency=Concurrency("key", 2)))
    scheduler.dispatch()
    second = scheduler.trigger(narrow)
    scheduler.dispatch()

    assert scheduler.run(waiting).status is RunStatus.DISPATCHED
    assert scheduler.run(second).hold is Hold.LIMIT
    scheduler.do(cancel_runs, [scheduler.run(waiting)], "cancelled_by_user")
    scheduler.recover()
    assert scheduler.run(second).hold is Hold.LIMIT  # its own limit is full still
    scheduler.record(held)
    assert scheduler.run(second).hold is None


def test_a_run_that_waits_for_nobody_is_found_by_the_sweep(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@every 1m", overlap="queue")
    scheduler.pass_time(60)
    scheduler.fire()
    [first] = scheduler.runs(task)
    scheduler.pass_time(60)
    scheduler.fire()
    [waiting] = [run for run in scheduler.runs(task) if run.hold is Hold.OVERLAP]

    def end_unseen(transaction: Transaction) -> None:
        """As where this end and that firing did not see one another."""
        [run] = transaction.runs([first.id]).values()
        done = {"completed_at": transaction.now}
        event = EventType.RUN_CANCELLED
        transaction.change_runs([move(run, RunStatus.CANCELLED, transaction.now, event, **done)])

    scheduler.do(end_unseen)
    assert scheduler.run(waiting).hold is Hold.OVERLAP

    scheduler.recover()
    assert scheduler.run(waiting).hold is None


def test_what_dead_workers_held_is_taken_back_at_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    held, waiting = scheduler.start(scheduler.trigger(task)), scheduler.trigger(task)
    scheduler.dispatch()

    assert scheduler.do(recover_from_dead_workers, ["worker-1"]) == 1
    assert scheduler.do(recover_from_dead_workers, ["worker-1"]) == 0
    assert scheduler.run(held).status is RunStatus.RETRYING
    assert scheduler.do(recover_after_restart) == 1
    assert scheduler.run(waiting).status is RunStatus.PENDING


def test_a_restart_takes_nothing_from_a_worker_that_goes_through_the_api(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register("its-own")
    scheduler.register("elsewhere", ip_address="10.0.0.7")
    task = scheduler.create(overlap="allow")
    held = [
        scheduler.start(scheduler.trigger(task), worker_id=worker_id)
        for worker_id in ("its-own", "elsewhere")
    ]

    assert scheduler.do(recover_after_restart) == 1
    assert [scheduler.run(run).status for run in held] == [RunStatus.RETRYING, RunStatus.RUNNING]
    scheduler.pass_time(11)
    assert scheduler.recover().lost == 1  # it is silent now, and its lease is over
