"""A schedule's time has come."""

from datetime import timedelta

import pytest

from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Misfire, Retry
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


def fates(scheduler: InlineScheduler) -> list[tuple[float, str, str | None]]:
    """Of each firing: how many seconds after the start it was due, and what became of it."""
    return [
        ((run.scheduled_for - START).total_seconds(), run.status.value, run.reason)
        for run in sorted(scheduler.runs(), key=lambda run: run.scheduled_for)
    ]


def test_a_due_task_fires_once_however_often_it_is_looked_at(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s")
    assert scheduler.fire().next_due_at == START + timedelta(seconds=10)
    scheduler.pass_time(10)
    assert [scheduler.fire().tasks for _ in range(3)] == [1, 0, 0]

    [run] = scheduler.runs()
    assert (run.scheduled_for, run.trigger_key) == (START + timedelta(seconds=10), "schedule")
    assert scheduler.task(task).last_run_at == START + timedelta(seconds=10)
    assert scheduler.task(task).next_run_at == START + timedelta(seconds=20)


def test_the_longest_overdue_fires_first_when_not_all_can(scheduler: InlineScheduler) -> None:
    scheduler.create("slow", schedule="@every 30s")
    scheduler.create("quick", schedule="@every 10s")
    scheduler.pass_time(30)
    fired = scheduler.fire(limit=1)

    assert {run.task_name for run in scheduler.runs()} == {"quick"}
    assert fired.next_due_at == START + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", [(10, "skipped", "misfire"), (20, "skipped", "misfire"), (30, "pending", None)]),
        ("run_once", [(10, "skipped", "coalesced"), (20, "pending", None), (30, "pending", None)]),
        ("run_all", [(10, "pending", None), (20, "pending", None), (30, "pending", None)]),
    ],
)
def test_late_firings_come_to_what_their_policy_says(
    scheduler: InlineScheduler, policy: str, expected: list[object]
) -> None:
    misfire = Misfire(policy, grace_seconds=5)  # type: ignore[arg-type]
    scheduler.create(schedule="@every 10s", overlap="allow", misfire=misfire)
    scheduler.pass_time(32)
    scheduler.fire()

    assert fates(scheduler) == expected


@pytest.mark.parametrize("policy", ["skip", "run_once", "run_all"])
def test_a_year_of_misses_of_every_second_is_accounted_for_in_one_look(
    scheduler: InlineScheduler, policy: str
) -> None:
    misfire = Misfire(policy, grace_seconds=0, max_runs=100)  # type: ignore[arg-type]
    task = scheduler.create(schedule="@every 1s", misfire=misfire, overlap="allow")
    scheduler.clock.advance(timedelta(days=365, seconds=0.5))
    scheduler.fire()
    found = scheduler.look(lambda r: r.ledger_counts(task.id, START, scheduler.clock.now()))

    assert sum(each.count for each in found) == 365 * 86_400
    ran = {"skip": 0, "run_once": 1, "run_all": 100}[policy]
    assert sum(each.count for each in found if each.status is RunStatus.PENDING) == ran
    assert len(scheduler.runs()) <= ran + 2
    assert scheduler.task(task).next_run_at == START + timedelta(days=365, seconds=1)


def test_a_wide_grace_makes_no_more_rows_at_once_than_a_transaction_should_hold(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(
        schedule="@every 1s", overlap="allow", misfire=Misfire(grace_seconds=1e6)
    )
    scheduler.pass_time(2_500)
    made = []
    for _ in range(4):
        scheduler.fire()
        made.append(len(scheduler.runs()))

    assert made == [1_000, 2_000, 2_500, 2_500]
    assert [run.scheduled_for for run in scheduler.runs()] == seconds(*range(1, 2_501))
    assert scheduler.task(task).next_run_at == START + timedelta(seconds=2_501)


def test_tasks_that_make_many_rows_leave_the_next_task_to_the_next_round(
    scheduler: InlineScheduler,
) -> None:
    catch_up = Misfire("run_all", grace_seconds=0, max_runs=10_000)
    scheduler.create("many", schedule="@every 1s", overlap="allow", misfire=catch_up)
    scheduler.create("few", schedule="@every 2s", overlap="allow", misfire=catch_up)
    scheduler.pass_time(10_000.5)

    assert [scheduler.fire().tasks for _ in range(3)] == [1, 1, 0]
    assert len(scheduler.runs()) == 15_000


def test_what_was_coalesced_points_to_the_run_it_went_into(scheduler: InlineScheduler) -> None:
    misfire = Misfire("run_once", grace_seconds=0)
    scheduler.create(schedule="@every 1s", misfire=misfire)
    scheduler.pass_time(500.5)
    scheduler.fire()
    run, stretch = scheduler.runs()

    assert (run.missed_count, run.scheduled_for) == (499, START + timedelta(seconds=500))
    assert (stretch.coalesced_into, stretch.missed_count + 1) == (run.id, 499)
    assert stretch.range_from == START + timedelta(seconds=1)


def test_what_was_coalesced_into_a_firing_that_overlap_skipped_points_to_its_row(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s", misfire=Misfire(grace_seconds=0))
    scheduler.trigger(task)
    scheduler.pass_time(25)
    scheduler.fire()
    skipped = next(run for run in scheduler.runs() if run.reason == "overlap")
    coalesced = next(run for run in scheduler.runs() if run.reason == "coalesced")

    assert coalesced.coalesced_into == skipped.id


def test_runs_that_are_made_up_for_go_one_after_the_other(scheduler: InlineScheduler) -> None:
    scheduler.register()
    misfire = Misfire("run_all", grace_seconds=0)
    scheduler.create(schedule="@every 10s", overlap="skip", misfire=misfire)
    scheduler.pass_time(35)
    scheduler.fire()
    first, second, third = scheduler.runs()
    assert [run.hold for run in (first, second, third)] == [None, Hold.CATCH_UP, Hold.CATCH_UP]
    scheduler.record(scheduler.start(first))
    assert [scheduler.run(run).hold for run in (second, third)] == [None, Hold.CATCH_UP]
    scheduler.record(scheduler.start(second))

    assert scheduler.run(third).hold is None


def test_a_newer_firing_cancels_the_running_one_and_starts_once_its_end_is_confirmed(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    scheduler.create(schedule="@every 9s", overlap="cancel_running")
    scheduler.pass_time(9)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    scheduler.pass_time(9)
    scheduler.fire()
    second = scheduler.runs()[1]
    assert scheduler.run(held).status is RunStatus.CANCELLING
    assert scheduler.run(second).hold is Hold.OVERLAP
    assert scheduler.dispatch().messages == []
    scheduler.renew(held)
    scheduler.pass_time(9)
    scheduler.fire()
    third = scheduler.runs()[2]
    assert (scheduler.run(second).status, scheduler.run(second).reason) == (
        RunStatus.SKIPPED,
        "overlap",
    )
    scheduler.record(held, failure("signal", "ended by signal 15"), "cancel")

    assert scheduler.run(held).reason == "overlap"
    assert scheduler.start(third).status is RunStatus.RUNNING


@pytest.mark.parametrize("overlap", ["queue", "cancel_running"])
def test_a_successor_waits_while_its_predecessor_is_to_be_tried_again(
    scheduler: InlineScheduler, overlap: str
) -> None:
    scheduler.register()
    retry = Retry(max_retries=1, delay_seconds=60, jitter=False)
    scheduler.create(schedule="@every 9s", overlap=overlap, retry=retry)
    scheduler.pass_time(9)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    scheduler.record(held, failure("exit_code", "exit code 1", exit_code=1))
    scheduler.pass_time(9)
    scheduler.fire()
    predecessor, successor = scheduler.runs()

    if overlap == "queue":
        assert (predecessor.status, successor.hold) == (RunStatus.RETRYING, Hold.OVERLAP)
    else:
        assert (predecessor.status, successor.hold) == (RunStatus.CANCELLED, None)


@pytest.mark.parametrize("policy", ["run_once", "run_all", "skip"])
def test_a_one_shot_that_is_late_within_the_grace_fires_once(
    scheduler: InlineScheduler, policy: str
) -> None:
    misfire = Misfire(policy, grace_seconds=60)  # type: ignore[arg-type]
    task = scheduler.create(schedule="@at 2026-01-01T00:00:10Z", misfire=misfire)
    scheduler.pass_time(70)
    scheduler.fire()
    scheduler.fire()

    assert fates(scheduler) == [(10, "pending", None)]
    assert scheduler.task(task).next_run_at is None


def test_a_one_shot_later_than_the_grace_is_skipped_where_the_policy_says_so(
    scheduler: InlineScheduler,
) -> None:
    misfire = Misfire("skip", grace_seconds=60)
    scheduler.create(schedule="@at 2026-01-01T00:00:10Z", misfire=misfire)
    scheduler.pass_time(70.001)
    scheduler.fire()

    assert fates(scheduler) == [(10, "skipped", "misfire")]


def test_a_fixed_delay_that_is_late_is_one_firing_however_late(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create(schedule="@after 10s", misfire=Misfire("run_all", grace_seconds=0))
    scheduler.pass_time(86_400)
    scheduler.fire()

    assert fates(scheduler) == [(10, "pending", None)]


def test_a_fixed_delay_whose_firing_was_skipped_counts_on_from_there(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@after 10s", overlap="skip")
    scheduler.trigger(task)
    scheduler.pass_time(10)
    scheduler.fire()

    assert fates(scheduler)[1:] == [(10, "skipped", "overlap")]
    assert scheduler.task(task).next_run_at == START + timedelta(seconds=20)


def test_what_was_left_of_a_schedule_ends_with_it(scheduler: InlineScheduler) -> None:
    task = scheduler.create(
        schedule="@every 10s",
        start_at=START + timedelta(seconds=20),
        end_at=START + timedelta(seconds=40),
        overlap="allow",
    )
    scheduler.pass_time(100)
    scheduler.fire()

    assert [at for at, *_ in fates(scheduler)] == [20, 30]
    assert scheduler.task(task).next_run_at is None
