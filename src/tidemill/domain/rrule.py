"""Recurrence rules of RFC 5545: daily and coarser on the wall clock, finer ones in UTC."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from dateutil.rrule import DAILY, HOURLY, MINUTELY, SECONDLY, WEEKLY, rrule, rruleset, rrulestr

from tidemill.errors import InvalidInput, Problem

_MAX_COUNT = 10_000
_FIXED_STEPS = {
    SECONDLY: timedelta(seconds=1),
    MINUTELY: timedelta(minutes=1),
    HOURLY: timedelta(hours=1),
    DAILY: timedelta(days=1),
    WEEKLY: timedelta(weeks=1),
}
_SUB_DAILY = {SECONDLY, MINUTELY, HOURLY}
_STAMP = re.compile(r"(?P<name>UNTIL=|DTSTART:)(?P<at>\d{8}T\d{6})(?P<utc>Z?)")


class RecurrenceRule:
    """Matching times as naive datetimes: on the wall, or in UTC for sub-daily rules."""

    follows_elapsed_time = False

    def __init__(self, text: str, anchor: datetime, zone: ZoneInfo) -> None:
        # Any: dateutil keeps a rule's frequency, step and start to itself.
        self._rule: Any = _parse(text, anchor, zone, on=zone)
        self.is_sub_daily = self._frequency in _SUB_DAILY
        if self.is_sub_daily:
            self._rule = _parse(text, anchor, zone, on=ZoneInfo("UTC"))
        # A counted rule depends on its start; any other may be entered at any multiple of its step.
        self._listed: list[datetime] | None = None
        if getattr(self._rule, "_count", None) is not None:
            self._listed = list(islice(self._rule, _MAX_COUNT + 1))
            if len(self._listed) > _MAX_COUNT:
                raise _invalid(f"COUNT must be at most {_MAX_COUNT}")

    @property
    def _frequency(self) -> int:
        frequency: int = self._rule._freq
        return frequency

    def next_wall(self, at_or_after: datetime) -> datetime | None:
        """The first matching time that is not before `at_or_after`."""
        if self._listed is not None:
            return next((each for each in self._listed if each >= at_or_after), None)
        found: datetime | None = self._entered_near(at_or_after).after(at_or_after, inc=True)
        return found

    def count_walls(self, since: datetime, until: datetime) -> int:
        """How many matching times lie in [since, until)."""
        count = 0
        for each in self._entered_near(since).xafter(since, inc=True):
            if each >= until:
                break
            count += 1
        return count

    def _entered_near(self, at: datetime) -> Any:
        step = _FIXED_STEPS.get(self._frequency)
        if step is None or self._listed is not None:
            return self._rule
        start: datetime = self._rule._dtstart
        period = step * self._rule._interval
        periods = (at - start) // period - 1
        if periods <= 0:
            return self._rule
        return self._rule.replace(dtstart=start + periods * period)


def _parse(text: str, anchor: datetime, zone: ZoneInfo, *, on: ZoneInfo) -> rrule:
    """The rule on the clock of `on`; what it writes without a Z is meant in `zone`."""
    body = text.removeprefix("RRULE:") if "DTSTART" not in text else text
    if re.search(r"\b(EXDATE|RDATE|EXRULE)", text):
        raise _invalid("only one RRULE, with a DTSTART before it if wanted, can be scheduled")
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
    return rule


def _on_clock(stamp: re.Match[str], zone: ZoneInfo, on: ZoneInfo) -> str:
    written = datetime.strptime(stamp["at"], "%Y%m%dT%H%M%S")
    instant = written.replace(tzinfo=UTC if stamp["utc"] else zone)
    return f"{stamp['name']}{instant.astimezone(on):%Y%m%dT%H%M%S}"


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, [Problem("/schedule", message)])
