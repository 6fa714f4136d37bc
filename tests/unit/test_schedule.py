from datetime import UTC, datetime, timedelta

import pytest

from tidemill.domain.schedule import ScheduleSpec, compile_schedule
from tidemill.errors import InvalidInput

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def fires(
    expression: str,
    count: int = 3,
    *,
    zone: str = "UTC",
    after: datetime = BEGIN,
    **spec: object,
) -> list[str]:
    """The next fire times, as a person would write them."""
    given = {"gap": "run_after", "fold": "first", "anchor_at": BEGIN, **spec}
    schedule = compile_schedule(ScheduleSpec(expression=expression, timezone=zone, **given))  # type: ignore[arg-type]
    return [f"{fire.at:%Y-%m-%d %H:%M:%S}" for fire in schedule.preview(after, count)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 2 L * *", ["2026-01-31 02:00:00", "2026-02-28 02:00:00", "2026-03-31 02:00:00"]),
        ("0 0 15W * *", ["2026-01-15 00:00:00", "2026-02-16 00:00:00", "2026-03-16 00:00:00"]),
        ("0 0 * * MON#1", ["2026-01-05 00:00:00", "2026-02-02 00:00:00", "2026-03-02 00:00:00"]),
        ("0 0 * * FRIL", ["2026-01-30 00:00:00", "2026-02-27 00:00:00", "2026-03-27 00:00:00"]),
        ("*/20 * * * * *", ["2026-01-01 00:00:20", "2026-01-01 00:00:40", "2026-01-01 00:01:00"]),
        ("@daily", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
        ("@yearly", ["2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"]),
        ("@every 90m", ["2026-01-01 01:30:00", "2026-01-01 03:00:00", "2026-01-01 04:30:00"]),
        ("@at 2026-12-01T09:00:00+01:00", ["2026-12-01 08:00:00"]),
        ("RRULE:FREQ=WEEKLY;BYDAY=TU;COUNT=2", ["2026-01-06 00:00:00", "2026-01-13 00:00:00"]),
    ],
)
def test_a_schedule_fires_when_its_expression_says(expression: str, expected: list[str]) -> None:
    assert fires(expression) == expected


def test_a_fixed_time_in_a_gap_runs_at_the_first_instant_after_it() -> None:
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    kept = fires("30 2 * * *", 2, zone="Europe/Berlin", after=spring)
    left_out = fires("30 2 * * *", 2, zone="Europe/Berlin", after=spring, gap="skip")

    assert kept == ["2026-03-29 01:00:00", "2026-03-30 00:30:00"]
    assert left_out == ["2026-03-30 00:30:00", "2026-03-31 00:30:00"]


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        ("first", ["2026-10-25 00:30:00", "2026-10-26 01:30:00"]),
        ("second", ["2026-10-25 01:30:00", "2026-10-26 01:30:00"]),
        ("both", ["2026-10-25 00:30:00", "2026-10-25 01:30:00"]),
    ],
)
def test_a_fixed_time_in_a_fold_runs_as_its_policy_says(fold: str, expected: list[str]) -> None:
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)

    assert fires("30 2 * * *", 2, zone="Europe/Berlin", after=autumn, fold=fold) == expected


def test_a_spread_time_is_the_same_for_a_task_and_differs_between_tasks() -> None:
    one = fires("H H * * *", 1, hash_key="default/one")
    again = fires("H H * * *", 1, hash_key="default/one")
    others = {tuple(fires("H H * * *", 1, hash_key=f"default/{n}")) for n in range(20)}

    assert one == again
    assert len(others) > 15


def test_start_is_inclusive_and_end_is_exclusive() -> None:
    span = {"start_at": BEGIN + timedelta(hours=1), "end_at": BEGIN + timedelta(hours=3)}

    assert fires("@hourly", 9, **span) == ["2026-01-01 01:00:00", "2026-01-01 02:00:00"]


def test_counting_agrees_with_walking() -> None:
    spec = ScheduleSpec("*/13 1-5 * * 1-5", "Europe/Berlin", "run_after", "first", BEGIN)
    schedule = compile_schedule(spec)
    until = BEGIN + timedelta(days=400)

    walked = schedule.fires_between(BEGIN, until, 1_000_000)
    assert schedule.count_between(BEGIN, until) == len(walked)
    assert schedule.latest_between(BEGIN, until, 7) == walked[-7:]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "61 * * * *", "0 0 30 2 *", "@every", "@every -5s", "@every 0s", "@at soon",
     "nonsense", "* * * * * * *", "RRULE:FREQ=NEVER", "*/0 * * * *", "5-1/0 * * * *"],
)  # fmt: skip
def test_an_expression_that_means_nothing_is_refused_with_its_place(expression: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        fires(expression)

    assert refused.value.problems
    assert refused.value.problems[0].pointer == "/schedule"


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        fires("@daily", zone="Europe/Bielefeld")

    assert refused.value.problems[0].pointer == "/timezone"
