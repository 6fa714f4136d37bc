"""What becomes of fire times that were not turned into runs in time."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.misfire import (
    IN_TIME_AT_ONCE,
    RANGE_FROM,
    MisfirePlan,
    plan_misfires,
    skipped_while_paused,
)
from tidemill.domain.schedule import Schedule, ScheduleSpec, compile_schedule
from tidemill.domain.task import Misfire
from tidemill.testing.clock import START

TICK = timedelta(microseconds=1)
POLICIES = ("skip", "run_once", "run_all")


def schedule(expression: str = "@every 10s") -> Schedule:
    return compile_schedule(ScheduleSpec(expression, "UTC", "run_after", "first", START))


def second(number: float) -> datetime:
    return START + timedelta(seconds=number)


def accounted_for(plan: MisfirePlan, times: Schedule) -> list[datetime]:
    """Every fire time of a plan, as often as it stands in it."""
    found = [fire.scheduled_for for fire in plan.runs]
    found += [skip.scheduled_for for skip in plan.skipped]
    for stretch in plan.ranges:
        inside = times.fires_between(stretch.first - TICK, stretch.last, 10_000_000)
        assert len(inside) == stretch.count > RANGE_FROM
        assert (inside[0], inside[-1]) == (stretch.first, stretch.last)
        found += inside
    return sorted(found)


@given(
    policy=st.sampled_from(POLICIES),
    expression=st.sampled_from(["@every 1s", "@every 7s", "*/5 * * * * *", "* * * * *"]),
    begin=st.integers(0, 300),
    late=st.integers(0, 3_000),
    grace=st.sampled_from([0, 0.5, 7, 60, 5_000]),
    max_runs=st.sampled_from([1, 5, 150]),
    window=st.sampled_from([0, 30, 600, 86_400]),
    fraction=st.sampled_from([0, 250_000, 999_999]),
)
def test_every_due_time_is_in_exactly_one_place(
    policy: str,
    expression: str,
    begin: int,
    late: int,
    grace: float,
    max_runs: int,
    window: float,
    fraction: int,
) -> None:
    times = schedule(expression)
    after, now = second(begin), second(begin + late) + timedelta(microseconds=fraction)
    rule = Misfire(policy, grace, max_runs, window)  # type: ignore[arg-type]
    plan = plan_misfires(times, after, now, rule)
    due = times.fires_between(after, plan.until, 10_000_000)

    assert (plan.until == now) is (len(plan.runs) < IN_TIME_AT_ONCE)
    assert accounted_for(plan, times) == due
    runs = [fire.scheduled_for for fire in plan.runs]
    assert runs == sorted(runs)
    in_time = [at for at in due if now - at <= timedelta(seconds=grace)]
    assert runs[len(runs) - len(in_time) :] == in_time
    made_up = plan.runs[: len(runs) - len(in_time)]
    missed = due[: len(due) - len(in_time)]
    if policy == "skip":
        assert made_up == []
    elif policy == "run_once":
        assert [fire.scheduled_for for fire in made_up] == missed[-1:]
        assert [fire.missed_count for fire in made_up] == [len(missed) - 1][: len(made_up)]
        into = {each.coalesced_into for each in [*plan.skipped, *plan.ranges]}
        assert into <= set(missed[-1:])
    else:
        wanted = [at for at in missed if now - at <= timedelta(seconds=window)][:max_runs]
        assert [fire.scheduled_for for fire in made_up] == wanted
        assert all(fire.is_catch_up for fire in made_up)


@pytest.mark.parametrize(
    ("lateness", "is_late"), [(59.999999, False), (60, False), (60.000001, True)]
)
def test_a_firing_is_late_when_more_than_the_grace_has_passed(
    lateness: float, is_late: bool
) -> None:
    plan = plan_misfires(schedule("@every 1h"), START, second(3_600 + lateness), Misfire("skip"))

    assert (plan.runs == []) is is_late


@pytest.mark.parametrize(("count", "rows", "ranges"), [(100, 100, 0), (101, 0, 1)])
def test_more_than_a_hundred_skipped_in_a_row_are_one_range(
    count: int, rows: int, ranges: int
) -> None:
    rule = Misfire("skip", grace_seconds=0)
    plan = plan_misfires(schedule("@every 1s"), START, second(count + 0.5), rule)

    assert (len(plan.skipped), len(plan.ranges)) == (rows, ranges)


def test_what_run_all_leaves_out_before_and_after_are_ranges_of_their_own() -> None:
    rule = Misfire("run_all", grace_seconds=0, max_runs=3, window_seconds=500)
    plan = plan_misfires(schedule("@every 1s"), START, second(1_000.5), rule)

    assert [fire.scheduled_for for fire in plan.runs] == [second(n) for n in (501, 502, 503)]
    assert [(stretch.first, stretch.last) for stretch in plan.ranges] == [
        (second(1), second(500)),
        (second(504), second(1_000)),
    ]


def test_plans_of_a_wide_grace_go_on_from_one_another() -> None:
    rule = Misfire(grace_seconds=1e6)
    now = second(2 * IN_TIME_AT_ONCE + 0.5)
    after, found = START, []
    for _ in range(3):
        plan = plan_misfires(schedule("@every 1s"), after, now, rule)
        assert len(plan.runs) <= IN_TIME_AT_ONCE
        found += [fire.scheduled_for for fire in plan.runs]
        after = plan.until

    assert after == now
    assert found == [second(n) for n in range(1, 2 * IN_TIME_AT_ONCE + 1)]


def test_all_times_of_a_pause_are_skipped_for_it() -> None:
    plan = skipped_while_paused(schedule(), START, second(35))

    assert [skip.scheduled_for for skip in plan.skipped] == [second(n) for n in (10, 20, 30)]
    assert {skip.reason for skip in plan.skipped} == {"paused"}
    assert plan.runs == []


def test_a_hundred_years_of_misses_cost_no_more_than_a_minute_of_them() -> None:
    until = START + timedelta(days=36_500)
    for policy in POLICIES:
        rule = Misfire(policy, grace_seconds=0)  # type: ignore[arg-type]
        plan = plan_misfires(schedule("@every 1s"), START, until, rule)
        total = len(plan.runs) + len(plan.skipped) + sum(each.count for each in plan.ranges)
        assert total == 36_500 * 86_400
