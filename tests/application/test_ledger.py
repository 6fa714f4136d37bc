"""What became of every due firing."""

from datetime import datetime, timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.pause_task import pause_task, resume_task
from tidemill.application.queries.ledger import Ledger, LedgerItem, ledger_of
from tidemill.domain.task import Misfire, Task
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def second(number: float) -> datetime:
    return START + timedelta(seconds=number)


def ledger(
    scheduler: InlineScheduler, task: Task, since: float, until: float, limit: int = 1_000
) -> Ledger:
    now = scheduler.task(task)
    return scheduler.look(lambda r: ledger_of(r, now, second(since), second(until), limit))


def all_items(scheduler: InlineScheduler, task: Task, until: float, limit: int) -> list[LedgerItem]:
    now = scheduler.task(task)
    items: list[LedgerItem] = []
    begin = START
    while True:
        page = scheduler.look(
            partial(ledger_of, task=now, since=begin, until=second(until), limit=limit)
        )
        assert len(page.items) <= limit
        items += page.items
        if page.next_from is None:
            return items
        begin = page.next_from


def test_a_firing_that_was_come_to_ran_and_one_that_was_not_is_missed(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s", overlap="allow")
    scheduler.pass_time(10)
    scheduler.fire()
    scheduler.pass_time(15)
    found = ledger(scheduler, task, 0, 60)

    assert (found.due, found.ran, found.missed) == (2, 1, 1)
    assert [item.fate for item in found.items] == ["ran", "missed"]
    assert ledger(scheduler, task, 0, 20).missed == 0  # the end is not part of the range


def test_a_firing_that_is_not_a_second_late_is_not_missed(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s")
    scheduler.pass_time(10.5)

    assert ledger(scheduler, task, 0, 60).due == 0
    scheduler.pass_time(0.5)
    assert ledger(scheduler, task, 0, 60).missed == 1


def test_a_run_that_was_cancelled_has_run_for_the_ledger(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s")
    scheduler.pass_time(10)
    scheduler.fire()
    scheduler.do(cancel_runs, scheduler.runs(), "cancelled_by_user")

    assert ledger(scheduler, task, 0, 60).ran == 1


def test_runs_by_hand_are_no_firings(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s")
    scheduler.trigger(task)

    assert ledger(scheduler, task, 0, 60).due == 0


def test_a_day_of_misses_is_counted_whole_while_the_items_are_paged(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 1s")
    scheduler.pass_time(86_401)
    found = ledger(scheduler, task, 0, 100_000, limit=10)

    assert (found.due, found.missed, len(found.items)) == (86_400, 86_400, 10)
    assert found.next_from == second(11)


def test_a_pause_that_lasts_is_accounted_for_as_it_will_be_when_it_ends(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s")
    scheduler.do(pause_task, task.id)
    scheduler.pass_time(31)
    during = ledger(scheduler, task, 0, 60)
    scheduler.do(resume_task, task.id)
    after = ledger(scheduler, task, 0, 60)

    assert (during.due, during.skipped) == (after.due, after.skipped) == (3, 3)
    assert {item.reason for item in during.items} == {"paused"}


def test_a_fixed_delay_is_due_when_its_time_has_come(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@after 10s")
    scheduler.pass_time(10)
    scheduler.fire()
    held = scheduler.start(scheduler.runs()[0])
    assert ledger(scheduler, task, 0, 60).due == 1
    scheduler.pass_time(3)
    scheduler.record(held)
    scheduler.pass_time(20)
    found = ledger(scheduler, task, 0, 60)

    assert (found.due, found.ran, found.missed) == (2, 1, 1)
    assert found.items[1].scheduled_for == second(23)


def test_a_range_counts_for_as_much_as_is_asked_for(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 1s", misfire=Misfire("skip", grace_seconds=0))
    scheduler.pass_time(1_000.5)
    scheduler.fire()

    assert ledger(scheduler, task, 0, 2_000).skipped == 1_000
    assert ledger(scheduler, task, 0, 501).skipped == 500
    assert ledger(scheduler, task, 501, 2_000).skipped == 500
    middle = ledger(scheduler, task, 300, 400)
    assert middle.skipped == 100
    [item] = middle.items
    assert (item.range_from, item.scheduled_for, item.count) == (second(300), second(399), 100)


@pytest.mark.parametrize("policy", ["skip", "run_once", "run_all"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    period=st.sampled_from([1, 3, 7]),
    late=st.integers(1, 2_000),
    grace=st.sampled_from([0, 5, 60]),
    window=st.sampled_from([10, 500, 86_400]),
    overlap=st.sampled_from(["allow", "skip", "queue", "cancel_running"]),
    cut=st.integers(0, 2_000),
    limit=st.integers(1, 40),
)
def test_every_due_firing_is_accounted_for_exactly_once(
    policy: str, period: int, late: int, grace: int, window: int, overlap: str, cut: int, limit: int
) -> None:
    scheduler = InlineScheduler()
    misfire = Misfire(policy, grace, 20, window)  # type: ignore[arg-type]
    task = scheduler.create(schedule=f"@every {period}s", misfire=misfire, overlap=overlap)
    scheduler.pass_time(late + 0.5)
    scheduler.fire()
    whole = ledger(scheduler, task, 0, 3_000)

    assert whole.due == late // period
    assert whole.missed == 0
    left, right = ledger(scheduler, task, 0, cut), ledger(scheduler, task, cut, 3_000)
    for field in ("due", "ran", "coalesced", "skipped"):
        assert getattr(left, field) + getattr(right, field) == getattr(whole, field)
    items = all_items(scheduler, task, 3_000, limit)
    assert sum(item.count for item in items) == whole.due
    times = [item.scheduled_for for item in items]
    assert times == sorted(set(times))
    assert items == whole.items


@pytest.mark.parametrize(
    "schedule",
    ["*/7 * * * * *", "RRULE:FREQ=SECONDLY;INTERVAL=7", "30,45 0-40 * * * *"],
)
def test_a_range_of_any_schedule_is_cut_where_it_is_asked_to_be(
    scheduler: InlineScheduler, schedule: str
) -> None:
    task = scheduler.create(schedule=schedule, misfire=Misfire("skip", grace_seconds=0))
    scheduler.pass_time(7_200.5)
    scheduler.fire()
    whole = ledger(scheduler, task, 0, 8_000).due

    assert whole > 100
    for cut in (1, 100, 1_803, 7_199):
        parts = ledger(scheduler, task, 0, cut).due + ledger(scheduler, task, cut, 8_000).due
        assert parts == whole, cut
