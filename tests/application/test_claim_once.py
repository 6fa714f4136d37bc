"""A worker claims under numbers."""

from tidemill.application.claim_once import NumberedClaim, claim_once
from tidemill.application.manage_workers import drain_worker, sign_off_worker
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import TaskRun
from tidemill.testing.inline import LEASE, InlineScheduler


def ready(scheduler: InlineScheduler) -> TaskRun:
    run = scheduler.trigger(scheduler.create(f"task-{len(scheduler.runs())}"))
    scheduler.dispatch()
    return run


def claim(scheduler: InlineScheduler, number: int, *run_ids: int) -> NumberedClaim:
    return scheduler.do(claim_once, "worker-1", number, run_ids, LEASE)


def test_a_number_claims_once_and_gives_again_what_is_held(scheduler: InlineScheduler) -> None:
    scheduler.register()
    kept, ended, late = (ready(scheduler) for _ in range(3))
    first = claim(scheduler, 1, kept.id, ended.id)
    scheduler.record(first.runs[1].run)
    scheduler.pass_time(6)
    again = claim(scheduler, 1, late.id)

    assert [each.run.id for each in first.runs] == [kept.id, ended.id]
    assert (first.is_repeated, again.is_repeated) == (False, True)
    [given] = again.runs
    assert (given.run.id, given.run.fence, given.run.attempt) == (kept.id, 1, 1)
    assert scheduler.run(kept).lease_expires_at == scheduler.clock.now() + LEASE
    assert scheduler.run(late).status is RunStatus.DISPATCHED


def test_a_number_below_the_latest_claims_and_gives_nothing(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held, wanted = ready(scheduler), ready(scheduler)
    claim(scheduler, 1, held.id)
    claim(scheduler, 2)
    late = claim(scheduler, 1, wanted.id)

    assert late == NumberedClaim([], is_repeated=True)
    assert scheduler.run(wanted).status is RunStatus.DISPATCHED


def test_numbers_of_one_worker_are_nothing_to_another(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.register("worker-2")
    first, second = ready(scheduler), ready(scheduler)
    claim(scheduler, 7, first.id)
    other = scheduler.do(claim_once, "worker-2", 1, [second.id], LEASE)

    assert [each.run.id for each in other.runs] == [second.id]


def test_a_worker_that_drains_is_still_told_what_it_claimed(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = ready(scheduler)
    claim(scheduler, 1, run.id)
    scheduler.do(drain_worker, "worker-1")

    assert [each.run.id for each in claim(scheduler, 1).runs] == [run.id]


def test_a_worker_that_was_given_up_is_given_nothing_again(scheduler: InlineScheduler) -> None:
    scheduler.register()
    run = ready(scheduler)
    scheduler.pass_time(6)
    claim(scheduler, 1, run.id)
    scheduler.pass_time(6)
    assert scheduler.recover().workers_lost == 1  # its runs' leases are not over yet

    assert claim(scheduler, 1).runs == []


def test_a_worker_that_left_and_comes_again_counts_anew(scheduler: InlineScheduler) -> None:
    scheduler.register()
    claim(scheduler, 9)
    scheduler.do(sign_off_worker, "worker-1")
    scheduler.register("worker-1-again")
    run = ready(scheduler)

    claimed = scheduler.do(claim_once, "worker-1-again", 1, [run.id], LEASE)
    assert [each.run.id for each in claimed.runs] == [run.id]
