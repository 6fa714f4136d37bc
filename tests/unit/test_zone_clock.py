"""Local clocks as stretches of constant offset, held against zoneinfo."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, _zoneinfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.schedule import ScheduleSpec, compile_schedule
from tidemill.domain.zone_clock import _PROBE, ZoneClock

ZONES = sorted(available_timezones())
zones = st.sampled_from(ZONES)
instants = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31)).map(
    lambda at: at.replace(microsecond=0)
)


@settings(max_examples=60, deadline=None)
@given(zone=zones, at=instants)
def test_the_offset_at_any_instant_is_that_of_the_zone_database(zone: str, at: datetime) -> None:
    clock = ZoneClock(zone, ZoneInfo(zone))
    stretch = clock.stretch_at(at)

    assert stretch.offset == at.replace(tzinfo=UTC).astimezone(clock.zone).utcoffset()
    assert stretch.start is None or stretch.start <= at
    assert stretch.end is None or at < stretch.end
    for edge in (stretch.start, stretch.end):  # an edge is the very second of the change
        if edge is not None:
            before = (edge - timedelta(seconds=1)).replace(tzinfo=UTC).astimezone(clock.zone)
            after = edge.replace(tzinfo=UTC).astimezone(clock.zone)
            assert before.utcoffset() != after.utcoffset()


@settings(max_examples=30, deadline=None)
@given(
    zone=zones,
    begin=instants,
    days=st.integers(1, 500),
    expression=st.sampled_from(
        ["30 2 * * *", "*/20 * * * *", "0 0 1,15 * 1", "15 1,2 * * 0", "59 23 L * *", "5 0-4 * * *"]
    ),
    gap=st.sampled_from(["run_after", "skip"]),
    fold=st.sampled_from(["first", "second", "both"]),
)
def test_counting_agrees_with_walking_in_every_zone(
    zone: str, begin: datetime, days: int, expression: str, gap: str, fold: str
) -> None:
    since = begin.replace(tzinfo=UTC)
    spec = ScheduleSpec(expression, zone, gap, fold, since)  # type: ignore[arg-type]
    schedule = compile_schedule(spec)
    until = since + timedelta(days=days)
    walked = schedule.fires_between(since, until, 1_000_000)

    assert schedule.count_between(since, until) == len(walked)
    assert schedule.latest_between(since, until, 3) == walked[-3:]
    assert walked == sorted(set(walked))


def test_no_zone_changes_its_offset_twice_between_two_looks() -> None:
    for name in ZONES:
        zone = _zoneinfo.ZoneInfo(name)  # the one written in Python shows what it has read
        offsets = [each.utcoff for each in zone._ttinfos]
        changes = [
            at
            for at, (before, after) in zip(zone._trans_utc[1:], pairwise(offsets), strict=True)
            if before != after and at > 0
        ]
        gaps = [after - before for before, after in pairwise(changes)]
        assert min(gaps, default=_PROBE.total_seconds()) >= _PROBE.total_seconds(), name


def test_a_clock_that_threads_share_shows_each_the_same() -> None:
    clock = ZoneClock("Europe/Berlin", ZoneInfo("Europe/Berlin"))

    def is_right(year: int) -> bool:
        at = datetime(year, 7, 1)
        offset = at.replace(tzinfo=UTC).astimezone(clock.zone).utcoffset()
        return clock.stretch_at(at).offset == offset

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, [*range(2000, 2030), *range(1999, 1971, -1)]))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Apia"])
def test_sparse_rules_far_ahead_keep_their_local_time(zone: str) -> None:
    spec = ScheduleSpec("0 12 29 2 *", zone, "run_after", "first", datetime(2026, 1, 1, tzinfo=UTC))
    times = compile_schedule(spec).fires_between(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC), 100
    )

    assert len(times) == 22  # 2100 is no leap year
    local = [at.astimezone(ZoneInfo(zone)) for at in times]
    assert {(at.month, at.day, at.hour, at.minute) for at in local} == {(2, 29, 12, 0)}
