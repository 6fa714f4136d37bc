"""When a task fires.

A schedule is a cron expression, `@every 30s`, `@after 10m`, `@at 2026-12-01T09:00:00+01:00` or an
`RRULE:…`. Every fire time is an aware UTC instant and a function of the schedule alone: whoever
computes it, whenever, gets the same.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

import msgspec

from tidemill.domain.cron import CronRule, refuse_if_never
from tidemill.domain.cron_fields import parse_cron
from tidemill.domain.interval import FixedRate, SingleTime, parse_duration
from tidemill.domain.rrule import RecurrenceRule
from tidemill.domain.zone_clock import ZonedTimes, zone_clock
from tidemill.errors import InvalidInput, Problem

Gap = Literal["run_after", "skip"]
Fold = Literal["first", "second", "both"]
Kind = Literal["cron", "every", "after", "at", "rrule"]

_LONGEST_EXPRESSION = 1_000
_TICK = timedelta(microseconds=1)


class ScheduleSpec(msgspec.Struct, frozen=True):
    """All that the fire times of a task depend on."""

    expression: str
    timezone: str
    gap: Gap
    fold: Fold
    anchor_at: datetime  # what `@every`, `@after` and a recurrence without DTSTART count from
    start_at: datetime | None = None  # nothing fires before it
    end_at: datetime | None = None  # nothing fires from it on
    hash_key: str = ""  # what `H` spreads by


class Fire(msgspec.Struct, frozen=True):
    """A fire time as people see it; `note` says where the local clock jumped."""

    at: datetime
    local: datetime
    note: str | None


class FireTimes(Protocol):
    """Fire times without a window."""

    def next_after(self, instant: datetime) -> datetime | None:
        """The first fire time strictly after `instant`."""

    def count_between(self, after: datetime, until: datetime) -> int:
        """How many fire times lie in (after, until]."""


class Schedule:
    """Fire times from `start_at`, inclusive, to `end_at`, exclusive."""

    def __init__(
        self, spec: ScheduleSpec, kind: Kind, times: FireTimes, delay: timedelta | None = None
    ) -> None:
        self.spec = spec
        self.kind = kind
        self.delay = delay  # of `@after`: from the end of a run to the next fire time
        self._times = times

    def next_after(self, instant: datetime) -> datetime | None:
        """The first fire time strictly after `instant`, or None where none is left."""
        start, end = self.spec.start_at, self.spec.end_at
        if start is not None and instant < start:
            instant = start - _TICK
        found = self._times.next_after(instant)
        if found is None or (end is not None and found >= end):
            return None
        return found

    def fires_between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Fire times in (after, until], ascending, the first `limit` of them."""
        found: list[datetime] = []
        at = self.next_after(after)
        while at is not None and at <= until and len(found) < limit:
            found.append(at)
            at = self.next_after(at)
        return found

    def count_between(self, after: datetime, until: datetime) -> int:
        """How many fire times lie in (after, until], without walking through them."""
        start, end = self.spec.start_at, self.spec.end_at
        if start is not None:
            after = max(after, start - _TICK)
        if end is not None:
            until = min(until, end - _TICK)
        return self._times.count_between(after, until) if until > after else 0

    def latest_between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Fire times in (after, until], ascending, the last `limit` of them."""
        if limit <= 0:
            return []
        window = timedelta(seconds=max(limit, 1))
        while until - window > after and self.count_between(until - window, until) < limit:
            window *= 2
        since = max(after, until - window)
        surplus = self.count_between(since, until) - limit
        while surplus > limit + 1_000:  # narrow down before walking
            middle = since + (until - since) / 2
            if self.count_between(middle, until) >= limit:
                since = middle
            else:
                break
            surplus = self.count_between(since, until) - limit
        return self.fires_between(since, until, surplus + limit)[-limit:]

    def only_at(self, at: datetime | None) -> "Schedule":
        """The same schedule with this fire time alone, or with none."""
        return Schedule(self.spec, self.kind, SingleTime(at), self.delay)

    def preview(self, after: datetime, count: int) -> list[Fire]:
        """The next `count` fire times after `after`."""
        zone = ZoneInfo(self.spec.timezone)
        fires: list[Fire] = []
        at = self.next_after(after)
        while at is not None and len(fires) < count:
            note = self._times.note_at(at) if isinstance(self._times, ZonedTimes) else None
            fires.append(Fire(at, at.astimezone(zone), note))
            at = self.next_after(at)
        return fires


@lru_cache(maxsize=65_536)
def compile_schedule(spec: ScheduleSpec) -> Schedule:
    """The schedule of a spec; raises InvalidInput saying what is wrong and what to write."""
    expression = spec.expression.strip()
    if len(expression) > _LONGEST_EXPRESSION:
        raise _invalid(f"a schedule has at most {_LONGEST_EXPRESSION} characters")
    zone = zone_clock(spec.timezone)
    word, _, rest = expression.partition(" ")
    match word.lower():
        case "@every":
            period = parse_duration(rest)
            rate = FixedRate(spec.anchor_at, period, anchor_fires=spec.start_at == spec.anchor_at)
            return Schedule(spec, "every", rate)
        case "@after":
            delay = parse_duration(rest)
            rate = FixedRate(spec.anchor_at, delay, anchor_fires=spec.start_at == spec.anchor_at)
            return Schedule(spec, "after", rate, delay)
        case "@at":
            return Schedule(spec, "at", SingleTime(_instant(rest.strip(), spec)))
    if expression.upper().startswith(("RRULE:", "DTSTART")):
        recurrence = RecurrenceRule(expression.upper(), spec.anchor_at, zone.zone)
        wall = zone_clock("UTC") if recurrence.is_sub_daily else zone
        return Schedule(spec, "rrule", ZonedTimes(recurrence, wall, spec.gap, spec.fold))
    times = _cron_times(expression, spec.timezone, spec.gap, spec.fold, _hash_key(spec))
    return Schedule(spec, "cron", times)


def _hash_key(spec: ScheduleSpec) -> str:
    """Expressions without `H` are the same for every task and compiled once."""
    return spec.hash_key if "H" in spec.expression.upper() else ""


@lru_cache(maxsize=16_384)
def _cron_times(expression: str, timezone: str, gap: Gap, fold: Fold, hash_key: str) -> ZonedTimes:
    rule = CronRule(parse_cron(expression, hash_key))
    refuse_if_never(rule, expression)
    return ZonedTimes(rule, zone_clock(timezone), gap, fold)


def _instant(text: str, spec: ScheduleSpec) -> datetime:
    try:
        written = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(
            f"{text!r} is no instant; write for example @at 2026-12-01T09:00:00+01:00"
        ) from None
    if written.tzinfo is not None:
        return written.astimezone(UTC)
    return _from_wall(written, spec)


def _from_wall(wall: datetime, spec: ScheduleSpec) -> datetime:
    """A wall time in the task's zone, gaps and folds by its policy."""
    times = ZonedTimes(_OneWallTime(wall), zone_clock(spec.timezone), spec.gap, spec.fold)
    found = times.next_after((wall - timedelta(days=3)).replace(tzinfo=UTC))
    if found is None:
        raise _invalid(f"{wall.isoformat()} does not exist in {spec.timezone}: the clock skips it")
    return found


class _OneWallTime:
    follows_elapsed_time = False

    def __init__(self, wall: datetime) -> None:
        self._wall = wall.replace(microsecond=0)

    def next_wall(self, at_or_after: datetime) -> datetime | None:
        return self._wall if self._wall >= at_or_after else None

    def count_walls(self, since: datetime, until: datetime) -> int:
        return int(since <= self._wall < until)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, [Problem("/schedule", message)])
