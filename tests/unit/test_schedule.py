from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.interval import FixedRate, parse_duration
from tidemill.domain.jitter import jittered
from tidemill.domain.rrule import RecurrenceRule
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


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # the fifth Monday: months without one are passed over
        ("0 0 * * MON#5", ["2026-03-30 00:00:00", "2026-06-29 00:00:00", "2026-08-31 00:00:00"]),
        # the nearest working day never leaves its month
        ("0 0 1W * *", ["2026-01-01 00:00:00", "2026-02-02 00:00:00", "2026-03-02 00:00:00"]),
        ("0 0 31W * *", ["2026-01-30 00:00:00", "2026-03-31 00:00:00", "2026-05-29 00:00:00"]),
        ("0 0 LW * *", ["2026-01-30 00:00:00", "2026-02-27 00:00:00", "2026-03-31 00:00:00"]),
        ("0 0 L-1 2 *", ["2026-02-27 00:00:00", "2027-02-27 00:00:00", "2028-02-28 00:00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
        ("59 59 23 31 12 *", ["2026-12-31 23:59:59", "2027-12-31 23:59:59", "2028-12-31 23:59:59"]),
        ("5 4 3 2 1 *", ["2026-01-02 03:04:05", "2027-01-02 03:04:05", "2028-01-02 03:04:05"]),
        # both day fields restricted: either is enough
        ("0 0 13 * FRI", ["2026-01-02 00:00:00", "2026-01-09 00:00:00", "2026-01-13 00:00:00"]),
        ("0 22-1 * * *", ["2026-01-01 00:00:00", "2026-01-01 01:00:00", "2026-01-01 22:00:00"]),
        ("0 0 * * FRI-MON", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
    ],
)
def test_the_special_forms_hold_at_the_ends_of_months(expression: str, expected: list[str]) -> None:
    assert fires(expression, after=BEGIN - timedelta(seconds=1)) == expected


@pytest.mark.parametrize(
    "expression",
    ["0 0 31 2 *", "0 0 30,31 2 *", "0 0 31 4,6,9,11 *", "0 0 31W 2 *", "0 0 0 30 2 ?"],
)
def test_a_day_that_no_month_has_is_refused_with_the_reason(expression: str) -> None:
    with pytest.raises(InvalidInput, match="never fires: no month has such a day"):
        fires(expression)


def test_a_daily_recurrence_keeps_its_local_hour_over_the_clock_change() -> None:
    start = "DTSTART:20260327T093000\nRRULE:FREQ=DAILY"

    assert fires(start, 4, zone="Europe/Berlin", after=datetime(2026, 3, 27, 9, tzinfo=UTC)) == [
        "2026-03-28 08:30:00", "2026-03-29 07:30:00", "2026-03-30 07:30:00", "2026-03-31 07:30:00",
    ]  # fmt: skip


def test_a_recurrence_below_a_day_keeps_its_real_distance_over_the_clock_change() -> None:
    start = "DTSTART:20260328T230000Z\nRRULE:FREQ=HOURLY;INTERVAL=1"
    after = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)

    assert fires(start, 3, zone="Europe/Berlin", after=after) == [
        "2026-03-29 00:00:00", "2026-03-29 01:00:00", "2026-03-29 02:00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("until", "last"),
    [
        ("20260403T073000Z", "2026-04-03 07:30:00"),  # exactly the last time, written in UTC
        ("20260403T072959Z", "2026-04-02 07:30:00"),
        ("20260403T093000", "2026-04-03 07:30:00"),  # written as the wall shows it
    ],
)
def test_the_end_of_a_recurrence_is_part_of_it_however_it_is_written(until: str, last: str) -> None:
    rule = f"DTSTART:20260401T093000\nRRULE:FREQ=DAILY;UNTIL={until}"

    assert fires(rule, 99, zone="Europe/Berlin")[-1] == last


def test_a_local_start_below_a_day_is_local() -> None:
    rule = "DTSTART:20260401T093000\nRRULE:FREQ=HOURLY;COUNT=2"

    assert fires(rule, 9, zone="Europe/Berlin") == ["2026-04-01 07:30:00", "2026-04-01 08:30:00"]


def test_a_counted_recurrence_ends_and_counts_from_its_start() -> None:
    rule = "DTSTART:20251230T000000Z\nRRULE:FREQ=DAILY;COUNT=4"

    assert fires(rule, 9) == ["2026-01-02 00:00:00"]


def test_a_counted_recurrence_is_kept_as_far_as_anybody_plans() -> None:
    found = fires("DTSTART:20260101T000000Z\nRRULE:FREQ=YEARLY;COUNT=10000", 9_999)

    assert (len(found), found[-1]) == (173, "2199-01-01 00:00:00")


@pytest.mark.parametrize(
    "expression",
    [
        "DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY\nEXDATE:20260102T000000Z",
        "DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY\nRDATE:20260102T000000Z",
        "RRULE:FREQ=DAILY;COUNT=20000",
        "DTSTART;TZID=Europe/Berlin:20260101T000000\nRRULE:FREQ=DAILY",
        "RRULE:FREQ=DAILY;UNTIL=20261399T000000Z",
    ],
)
def test_a_recurrence_that_cannot_be_kept_is_refused(expression: str) -> None:
    with pytest.raises(InvalidInput):
        fires(expression)


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;BYHOUR=5;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MINUTELY;BYMONTH=13",
        "FREQ=MINUTELY;INTERVAL=1440;BYHOUR=5",
        "FREQ=HOURLY;INTERVAL=168;BYDAY=TU",  # from a Thursday
        "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=2",
        "FREQ=MONTHLY;BYMONTHDAY=31;BYMONTH=4,6",
        "FREQ=YEARLY;BYWEEKNO=60",
        "FREQ=YEARLY;BYYEARDAY=366;BYMONTHDAY=30",
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29",  # from 2026
    ],
)
def test_a_recurrence_that_matches_nothing_is_refused_with_the_reason(rule: str) -> None:
    with pytest.raises(InvalidInput, match="never fires") as refused:
        fires(f"RRULE:{rule}")

    assert refused.value.problems[0].pointer == "/schedule"


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=SECONDLY;INTERVAL=999999999999",
        "FREQ=MINUTELY;BYSECOND=60",
        "FREQ=HOURLY;BYHOUR=24",
        "FREQ=DAILY;COUNT=3;UNTIL=20260401T000000Z",
        "FREQ=MONTHLY;BYDAY=MO,TU;BYHOUR=9,17;BYSETPOS=-1",
        "FREQ=HOURLY;BYMINUTE=0,30;BYSETPOS=1",
        "FREQ=DAILY\nDTSTART:19691231T000000Z",
    ],
)
def test_a_part_of_a_recurrence_that_cannot_be_kept_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput):
        fires(f"RRULE:{rule}")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO",
            ["2044-02-29 00:00:00", "2072-02-29 00:00:00", "2112-02-29 00:00:00"],
        ),
        (
            "FREQ=SECONDLY;INTERVAL=7;BYHOUR=5;BYMINUTE=0;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO",
            ["2044-02-29 05:00:01", "2044-02-29 05:00:08", "2044-02-29 05:00:15"],
        ),
        (
            "FREQ=HOURLY;INTERVAL=10000",
            ["2027-02-21 16:00:00", "2028-04-13 08:00:00", "2029-06-04 00:00:00"],
        ),
    ],
)
def test_a_recurrence_that_matches_seldom_is_found(rule: str, expected: list[str]) -> None:
    assert fires(f"RRULE:{rule}", 3) == expected


RECURRENCES = st.builds(
    "FREQ={};INTERVAL={}{}{}{}".format,
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]),
    st.sampled_from([1, 2, 3, 7, 45, 61]),
    st.sampled_from(["", ";BYHOUR=3,4,15", ";BYMINUTE=0,30", ";BYSECOND=0,7", ";BYHOUR=0,1,2"]),
    st.sampled_from(["", ";BYDAY=MO,WE", ";BYMONTHDAY=1,-1,13", ";BYMONTH=2,11", ";BYWEEKNO=1,9"]),
    st.sampled_from(["", "", ";COUNT=9", ";UNTIL=20260301T000000"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rule=RECURRENCES, begin=st.integers(0, 40 * 86_400), length=st.integers(0, 5_000))
def test_a_recurrence_is_what_the_library_makes_of_it(rule: str, begin: int, length: int) -> None:
    anchor = BEGIN + timedelta(hours=4, minutes=30, seconds=7)
    try:
        written = rrulestr(rule, dtstart=anchor.replace(tzinfo=None))
        expected = list(islice(written.xafter(anchor.replace(tzinfo=None), count=3, inc=True), 3))
    except ValueError:
        expected = []  # the library finds only on the way that nothing matches
    try:
        found = RecurrenceRule(f"RRULE:{rule}", anchor, ZoneInfo("UTC"))
    except InvalidInput:
        assert not expected
        return

    walls = []
    at = anchor.replace(tzinfo=None)
    while len(walls) < 3 and (wall := found.next_wall(at)) is not None:
        walls.append(wall)
        at = wall + timedelta(seconds=1)
    assert walls == expected
    since = (BEGIN + timedelta(seconds=begin)).replace(tzinfo=None)
    until = since + timedelta(seconds=length)
    counted = [at for at in written.between(since, until, inc=True) if at != until]
    assert found.count_walls(since, until) == len(counted)
    following = written.after(since, inc=True)
    assert found.next_wall(since) == following


@pytest.mark.parametrize("rule", ["FREQ=SECONDLY", "FREQ=MINUTELY;INTERVAL=7;BYSECOND=0,30"])
def test_a_hundred_years_of_a_recurrence_are_counted_without_a_walk(rule: str) -> None:
    spec = ScheduleSpec(f"RRULE:{rule}", "UTC", "run_after", "first", BEGIN)
    years = timedelta(days=36_525)
    per_minute = 60 if rule == "FREQ=SECONDLY" else 2 / 7

    counted = compile_schedule(spec).count_between(BEGIN, BEGIN + years)
    assert counted == pytest.approx(36_525 * 1_440 * per_minute, abs=2)


def test_a_start_between_two_times_of_a_fixed_rate_does_not_shift_it() -> None:
    assert fires("@every 1h", 2, start_at=BEGIN + timedelta(minutes=90)) == [
        "2026-01-01 02:00:00", "2026-01-01 03:00:00",
    ]  # fmt: skip
    anchored = BEGIN + timedelta(minutes=90)
    assert fires("@every 1h", 2, start_at=anchored, anchor_at=anchored) == [
        "2026-01-01 01:30:00", "2026-01-01 02:30:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("PT1M30S", 90),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1", "s", "1.5h", "P", "PT", "200000w", "1y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


@given(
    key=st.text(min_size=1, max_size=20),
    seconds=st.floats(0, 86_400),
    offset=st.integers(0, 10**8),
)
def test_jitter_delays_by_less_than_it_may_and_always_by_the_same(
    key: str, seconds: float, offset: int
) -> None:
    at = BEGIN + timedelta(seconds=offset)
    found = jittered(at, key, seconds)

    assert timedelta(0) <= found - at <= timedelta(seconds=seconds)
    assert found == jittered(at, key, seconds)
    assert (found - at) % timedelta(milliseconds=1) == timedelta(0)


@given(
    period=st.integers(1, 100_000),
    begin=st.integers(-(10**6), 10**6),
    length=st.integers(0, 10**6),
    anchor_fires=st.booleans(),
)
def test_a_fixed_rate_counts_what_it_would_walk_through(
    period: int, begin: int, length: int, anchor_fires: bool
) -> None:
    rate = FixedRate(BEGIN, timedelta(seconds=period), anchor_fires=anchor_fires)
    after = BEGIN + timedelta(seconds=begin)
    until = after + timedelta(seconds=min(length, period * 50))
    walked = 0
    at = rate.next_after(after)
    while at <= until:
        walked += 1
        at = rate.next_after(at)

    assert rate.count_between(after, until) == walked


def test_spread_times_fill_their_range_and_stay_in_it() -> None:
    minutes = {int(fires("H(10-19) * * * *", 1, hash_key=str(n))[0][14:16]) for n in range(300)}
    stepped = fires("H/15 * * * *", 4, hash_key="a")
    days = {int(fires("0 0 H * *", 1, hash_key=str(n))[0][8:10]) for n in range(300)}

    assert minutes == set(range(10, 20))
    assert len({int(at[14:16]) % 15 for at in stepped}) == 1
    assert max(days) == 28  # in every month there is one
