"""What becomes of fire times that were not turned into runs in time.

A firing is late when it is turned into a run more than `grace_seconds` after its time. Those that
are not late each run as themselves, whatever the policy.
"""

from datetime import datetime, timedelta

import msgspec

from tidemill.domain.schedule import Schedule
from tidemill.domain.task import Misfire

RANGE_FROM = 100  # more skipped in a row than this become one range
IN_TIME_AT_ONCE = 1_000  # a wide grace may let many run: one plan holds no more of them

_TICK = timedelta(microseconds=1)


class PlannedFire(msgspec.Struct, frozen=True):
    """A firing that becomes a run; `missed_count` others, not itself, were coalesced into it."""

    scheduled_for: datetime
    missed_count: int = 0
    is_catch_up: bool = False  # one of many that `run_all` makes up for


class SkippedFire(msgspec.Struct, frozen=True):
    """A firing that does not run; where coalesced, into the run of the time named."""

    scheduled_for: datetime
    reason: str
    coalesced_into: datetime | None = None


class SkippedRange(msgspec.Struct, frozen=True):
    """More of them in a row than are worth a row each: first and last time inclusive."""

    first: datetime
    last: datetime
    count: int
    reason: str
    coalesced_into: datetime | None = None


class MisfirePlan(msgspec.Struct, frozen=True):
    """Every fire time up to `until`, in exactly one of the three; each list in order of time."""

    until: datetime
    runs: list[PlannedFire]
    skipped: list[SkippedFire] = []
    ranges: list[SkippedRange] = []


def plan_misfires(schedule: Schedule, after: datetime, now: datetime, rule: Misfire) -> MisfirePlan:
    """The plan for the fire times in (after, now], or for those up to an earlier `until`.

    It ends early where more are in time than one plan holds; another goes on from there.
    `skip`: late ones are skipped. `run_once`: the latest late one runs for all of them. `run_all`:
    late ones within the window run, oldest first, at most `max_runs`; the rest are skipped.
    """
    on_time_from = max(after, now - timedelta(seconds=rule.grace_seconds) - _TICK)  # exclusive
    in_time = [PlannedFire(at) for at in schedule.fires_between(on_time_from, now, IN_TIME_AT_ONCE)]
    until = now if len(in_time) < IN_TIME_AT_ONCE else in_time[-1].scheduled_for
    late = schedule.count_between(after, on_time_from)
    if not late:
        return MisfirePlan(until, in_time)
    match rule.policy:
        case "skip":
            gone = _skipped(schedule, after, on_time_from, late, "misfire", None)
            return _joined(until, in_time, [gone])
        case "run_once":
            latest = schedule.latest_between(after, on_time_from, 1)[0]
            gone = _skipped(schedule, after, latest - _TICK, late - 1, "coalesced", latest)
            return _joined(until, [PlannedFire(latest, late - 1), *in_time], [gone])
        case _:
            runs, gone_by = _caught_up(schedule, after, on_time_from, now, rule)
            return _joined(until, [*runs, *in_time], gone_by)


def skipped_while_paused(schedule: Schedule, after: datetime, until: datetime) -> MisfirePlan:
    """All fire times in (after, until], skipped with reason `paused`."""
    count = schedule.count_between(after, until)
    return _joined(until, [], [_skipped(schedule, after, until, count, "paused", None)])


_Skipped = tuple[list[SkippedFire], list[SkippedRange]]


def _caught_up(
    schedule: Schedule, after: datetime, until: datetime, now: datetime, rule: Misfire
) -> tuple[list[PlannedFire], list[_Skipped]]:
    window_from = min(max(after, now - timedelta(seconds=rule.window_seconds) - _TICK), until)
    too_old = schedule.count_between(after, window_from)
    made_up = schedule.fires_between(window_from, until, rule.max_runs)
    runs = [PlannedFire(at, 0, is_catch_up=True) for at in made_up]
    rest_from = made_up[-1] if made_up else window_from
    rest = schedule.count_between(rest_from, until)
    return runs, [
        _skipped(schedule, after, window_from, too_old, "misfire", None),
        _skipped(schedule, rest_from, until, rest, "misfire", None),
    ]


def _skipped(
    schedule: Schedule,
    after: datetime,
    until: datetime,
    count: int,
    reason: str,
    into: datetime | None,
) -> _Skipped:
    """The fire times in (after, until], `count` of them, as rows or as one range."""
    if count <= RANGE_FROM:
        times = schedule.fires_between(after, until, count)
        return [SkippedFire(at, reason, into) for at in times], []
    first = schedule.next_after(after)
    assert first is not None
    last = schedule.latest_between(after, until, 1)[0]
    return [], [SkippedRange(first, last, count, reason, into)]


def _joined(until: datetime, runs: list[PlannedFire], gone: list[_Skipped]) -> MisfirePlan:
    return MisfirePlan(
        until,
        runs,
        [each for singles, _ in gone for each in singles],
        [each for _, ranges in gone for each in ranges],
    )
