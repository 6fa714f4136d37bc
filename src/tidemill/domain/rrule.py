"""Recurrence rules of RFC 5545: daily and coarser on the wall clock, finer ones in UTC.

A rule is its days and, on each, its times. dateutil parses it and finds the days of weeks, months
and years; what steps by days or less is a grid, and arithmetic.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from dateutil.rrule import (
    DAILY,
    HOURLY,
    MINUTELY,
    MONTHLY,
    SECONDLY,
    WEEKLY,
    YEARLY,
    rrule,
    rruleset,
    rrulestr,
)

from tidemill.errors import InvalidInput, Problem

_MAX_COUNT = 10_000
_MAX_INTERVAL = 10**8
_FIRST_YEAR, _LAST_YEAR = 1970, 2199  # of a DTSTART, and of what is counted
_LONGEST_WAIT = timedelta(days=36_525)
_STEPS_OF_LONGEST_WAIT = {YEARLY: 100, MONTHLY: 1_200, WEEKLY: 5_218, DAILY: 36_525}
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_DAY_SECONDS = 86_400
_UNITS = {DAILY: _DAY_SECONDS, HOURLY: 3_600, MINUTELY: 60, SECONDLY: 1}
_DAY_FILTERS = (
    "_bymonth", "_bymonthday", "_bynmonthday", "_byyearday", "_byweekno", "_byweekday", "_byeaster",
    "_bysetpos",
)  # fmt: skip
_STAMP = re.compile(r"(?P<name>UNTIL=|DTSTART:)(?P<at>\d{8}T\d{6})(?P<utc>Z?)")


class RecurrenceRule:
    """Matching times as naive datetimes: on the wall, or in UTC for sub-daily rules."""

    follows_elapsed_time = False

    def __init__(self, text: str, anchor: datetime, zone: ZoneInfo) -> None:
        # Any: dateutil keeps a rule's frequency, step and start to itself.
        rule: Any = _parse(text, anchor, zone, on=zone)
        self.is_sub_daily = rule._freq > DAILY
        if self.is_sub_daily:
            rule = _parse(text, anchor, zone, on=ZoneInfo("UTC"))
        self._start: datetime = rule._dtstart
        self._until: datetime = rule._until or datetime.max
        self._days = _days_of(rule)
        self._grid = _grid_of(rule)
        if next(self._walls(self._start), None) is None:
            raise _invalid("the rule never fires: no time matches within a hundred years")
        # A counted rule depends on its start; any other may be entered anywhere.
        self._listed: list[datetime] | None = None
        if rule._count is not None:
            counted = islice(self._walls(self._start), rule._count)
            self._listed = list(takewhile(lambda at: at.year <= _LAST_YEAR, counted))

    def next_wall(self, at_or_after: datetime) -> datetime | None:
        """The first matching time that is not before `at_or_after`."""
        if self._listed is not None:
            index = bisect_left(self._listed, at_or_after)
            found = self._listed[index] if index < len(self._listed) else None
        else:
            found = next(self._walls(max(at_or_after, self._start)), None)
        return found if found is not None and found <= self._until else None

    def count_walls(self, since: datetime, until: datetime) -> int:
        """How many matching times lie in [since, until)."""
        since, until = max(since, self._start), min(until, _after(self._until))
        if until <= since:
            return 0
        if self._listed is not None:
            return bisect_left(self._listed, until) - bisect_left(self._listed, since)
        if self._days is None and self._grid.is_plain:
            return self._grid.count_before(until) - self._grid.count_before(since)
        count = 0
        for day in self._days_from(_midnight(since)):
            if day >= until:
                break
            times = self._grid.times_on(day)
            count += bisect_left(times, _seconds(min(until - day, _DAY)))
            count -= bisect_left(times, _seconds(max(since - day, timedelta())))
        return count

    def _walls(self, at: datetime) -> Iterator[datetime]:
        """Matching times from `at` on, whatever ends the rule; none after a wait too long."""
        wait_from = at
        for day in self._days_from(_midnight(at)):
            if day - wait_from > _LONGEST_WAIT:
                return
            times = self._grid.times_on(day)
            begin = bisect_left(times, _seconds(max(at - day, timedelta())))
            for second in islice(times, begin, None):
                wait_from = day
                yield day + timedelta(seconds=second)

    def _days_from(self, day: datetime) -> Iterator[datetime]:
        """Midnights of the days that the rule takes, from this one on."""
        if self._days is not None:
            yield from self._days.starting_at(day)
            return
        while day.year < datetime.max.year:
            yield day
            day += _DAY


class _Days:
    """The days of a rule that takes only some, each as its midnight."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule

    def starting_at(self, day: datetime) -> Iterator[datetime]:
        rule = self._rule.replace(dtstart=self._entry_before(day))
        rule._bysetpos = patience = _Patience(rule._bysetpos or ())
        patience.most = _STEPS_OF_LONGEST_WAIT[rule._freq]
        try:
            for found in rule:
                patience.steps = 0
                if found >= day:
                    yield found
        except _NothingFound:
            return

    def _entry_before(self, day: datetime) -> datetime:
        """Where the rule may be entered as if it began there: a whole number of steps on."""
        start: datetime = self._rule._dtstart
        interval: int = self._rule._interval
        if self._rule._freq in {DAILY, WEEKLY}:
            step = interval * (_DAY if self._rule._freq == DAILY else 7 * _DAY)
            return start + max((day - start) // step - 1, 0) * step
        months = interval * (1 if self._rule._freq == MONTHLY else 12)
        elapsed = (day.year - start.year) * 12 + day.month - start.month
        steps = elapsed // months - 1
        if steps <= 0:
            return start
        years, month = divmod(start.month - 1 + steps * months, 12)
        return datetime(start.year + years, month + 1, 1)


class _NothingFound(Exception):
    """A hundred years of steps without a match."""


class _Patience(tuple[int, ...]):
    """BYSETPOS of one search: dateutil asks for it once a step, and can be stopped nowhere else."""

    steps = 0
    most = 0

    def __bool__(self) -> bool:
        self.steps += 1
        if self.steps > self.most:
            raise _NothingFound
        return len(self) > 0


class _Grid(NamedTuple):
    """The times of a day: every `step` seconds from `origin`, as far as the fields let them."""

    origin: datetime
    step: int
    hours: frozenset[int] | None
    minutes: frozenset[int] | None
    seconds: frozenset[int] | None
    within: tuple[int, ...]  # what each step is spread to, in seconds from it

    @property
    def is_plain(self) -> bool:
        """Whether the steps are the times."""
        return self[2:] == (None, None, None, (0,))

    def times_on(self, day: datetime) -> Sequence[int]:
        """Seconds since midnight, ascending."""
        first = _seconds(self.origin - day) % self.step
        if self.is_plain:
            return range(first, _DAY_SECONDS, self.step)
        return _times_of_day(first, *self[1:])

    def count_before(self, at: datetime) -> int:
        """How many steps from the origin on lie before `at`."""
        return -(-_seconds(at - self.origin) // self.step)


@lru_cache(maxsize=256)
def _times_of_day(
    first: int,
    step: int,
    hours: frozenset[int] | None,
    minutes: frozenset[int] | None,
    seconds: frozenset[int] | None,
    within: tuple[int, ...],
) -> Sequence[int]:
    return array(
        "i",
        [
            begin + further
            for begin in range(first, _DAY_SECONDS, step)
            if (hours is None or begin // 3_600 in hours)
            and (minutes is None or begin // 60 % 60 in minutes)
            and (seconds is None or begin % 60 in seconds)
            for further in within
        ],
    )


def _days_of(rule: Any) -> _Days | None:
    """The days that a rule takes, or None where it takes each that its grid meets."""
    is_grid = rule._freq >= DAILY
    if is_grid and not any(getattr(rule, name) for name in _DAY_FILTERS):
        return None
    return _Days(
        rule.replace(
            freq=min(rule._freq, DAILY),
            interval=1 if is_grid else rule._interval,
            dtstart=_midnight(rule._dtstart),
            # What the start stands for is written out, so that a later one means the same.
            bymonth=rule._bymonth,
            bymonthday=(*rule._bymonthday, *rule._bynmonthday) or None,
            byhour=0,
            byminute=0,
            bysecond=0,
            count=None,
            until=None,
        )
    )


def _grid_of(rule: Any) -> _Grid:
    unit = _UNITS.get(rule._freq, _DAY_SECONDS)
    steps = rule._interval if rule._freq >= DAILY else 1
    start: datetime = rule._dtstart
    fields = [
        frozenset(field) if field is not None else None
        for field in (rule._byhour, rule._byminute, rule._bysecond)
    ]
    # A field of the unit or above says which steps count; one below spreads each step.
    spread = [
        sorted(field) if field is not None and size < unit else [0]
        for field, size in zip(fields, (3_600, 60, 1), strict=True)
    ]
    hours, minutes, seconds = (
        field if size >= unit else None for field, size in zip(fields, (3_600, 60, 1), strict=True)
    )
    return _Grid(
        start - (start - _midnight(start)) % timedelta(seconds=unit),
        steps * unit,
        hours,
        minutes,
        seconds,
        tuple(h * 3_600 + m * 60 + s for h in spread[0] for m in spread[1] for s in spread[2]),
    )


def _parse(text: str, anchor: datetime, zone: ZoneInfo, *, on: ZoneInfo) -> rrule:
    """The rule on the clock of `on`; what it writes without a Z is meant in `zone`."""
    body = text.removeprefix("RRULE:") if "DTSTART" not in text else text
    if re.search(r"\b(EXDATE|RDATE|EXRULE)", text):
        raise _invalid("only one RRULE, with a DTSTART before it if wanted, can be scheduled")
    if "COUNT=" in text and "UNTIL=" in text:
        raise _invalid("a rule ends by COUNT or by UNTIL, not by both")
    if "TZID" in text:
        raise _invalid("write the zone into `timezone`; the rule itself takes no TZID")
    try:
        written = _STAMP.sub(lambda stamp: _on_clock(stamp, zone, on), body.replace("\\n", "\n"))
        start = anchor.astimezone(on).replace(tzinfo=None)
        rule = rrulestr(written, dtstart=start, ignoretz=True)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _invalid(f"{text[:80]!r} is no recurrence rule: {error}") from None
    if isinstance(rule, rruleset):
        raise _invalid("only one RRULE can be scheduled")
    _refuse_what_cannot_be_kept(rule)
    return rule


def _refuse_what_cannot_be_kept(rule: Any) -> None:
    if not 1 <= rule._interval <= _MAX_INTERVAL:
        raise _invalid(f"INTERVAL must lie between 1 and {_MAX_INTERVAL}")
    if rule._count is not None and rule._count > _MAX_COUNT:
        raise _invalid(f"COUNT must be at most {_MAX_COUNT}")
    if not _FIRST_YEAR <= rule._dtstart.year <= _LAST_YEAR:
        raise _invalid(f"DTSTART must lie between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    times = (rule._byhour, rule._byminute, rule._bysecond)
    for name, field, most in zip(("HOUR", "MINUTE", "SECOND"), times, (23, 59, 59), strict=True):
        if any(not 0 <= value <= most for value in field or ()):
            raise _invalid(f"BY{name} must lie between 0 and {most}")
    is_once_a_day = rule._freq <= DAILY and all(len(field) == 1 for field in times)
    if rule._bysetpos and not is_once_a_day:
        raise _invalid("BYSETPOS chooses between days: it needs one time a day")


def _on_clock(stamp: re.Match[str], zone: ZoneInfo, on: ZoneInfo) -> str:
    written = datetime.strptime(stamp["at"], "%Y%m%dT%H%M%S")
    instant = written.replace(tzinfo=UTC if stamp["utc"] else zone)
    return f"{stamp['name']}{instant.astimezone(on):%Y%m%dT%H%M%S}"


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _after(until: datetime) -> datetime:
    return until if until == datetime.max else until + _SECOND


def _seconds(span: timedelta) -> int:
    """Whole seconds, rounded up."""
    return -(-span // _SECOND)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, [Problem("/schedule", message)])
