"""A worker says that it is there."""

from tidemill.application.cancel_runs import cancel_runs
from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import WorkerStatus
from tidemill.testing.inline import LEASE, InlineScheduler


def test_a_heartbeat_extends_what_is_held(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(9)
    renewal = scheduler.renew(held)

    assert renewal.statuses == {held.id: RunStatus.RUNNING}
    assert scheduler.run(held).lease_expires_at == scheduler.clock.now() + LEASE
    worker = scheduler.look(lambda reads: reads.worker("worker-1"))
    assert worker is not None
    assert (worker.last_heartbeat, worker.current_task_count) == (scheduler.clock.now(), 1)


def test_a_heartbeat_tells_what_is_to_be_cancelled(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.do(cancel_runs, [scheduler.run(held)], "cancelled_by_user")

    assert scheduler.renew(held).statuses == {held.id: RunStatus.CANCELLING}


def test_a_late_heartbeat_renews_what_nobody_took_back_yet(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(60)

    assert scheduler.renew(held).statuses == {held.id: RunStatus.RUNNING}
    assert scheduler.recover().lost == 0


def test_a_holder_whose_run_was_taken_back_renews_nothing(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(60)
    scheduler.recover()
    renewal = scheduler.renew(held)

    assert renewal.statuses == {}
    assert not renewal.is_known  # it was silent too long, and must come back as another
    worker = scheduler.look(lambda reads: reads.worker("worker-1"))
    assert worker is not None
    assert worker.status is WorkerStatus.LOST


def test_an_old_fence_is_not_renewed_by_the_worker_that_holds_the_new_one(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    old = scheduler.start(scheduler.trigger(scheduler.create()))
    scheduler.pass_time(9)
    scheduler.renew(worker_id="worker-1")
    scheduler.pass_time(2)
    scheduler.recover()
    new = scheduler.start(scheduler.run(old))

    assert scheduler.renew(old).statuses == {}
    assert scheduler.renew(new).statuses == {new.id: RunStatus.RUNNING}
