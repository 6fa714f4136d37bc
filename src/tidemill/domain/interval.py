"""Schedules without a calendar: a fixed rate, a fixed delay, one instant."""

import re
from datetime import datetime, timedelta

from tidemill.errors import InvalidInput, Problem

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PARTS = re.compile(r"(\d+)([smhdw])", re.IGNORECASE)
_WRITTEN = re.compile(r"(?:\d+[smhdw])+", re.IGNORECASE)
_ISO = re.compile(r"P(?:\d+W)?(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+S)?)?", re.IGNORECASE)
_LONGEST = timedelta(days=36_525)


def parse_duration(text: str) -> timedelta:
    """`30s`, `10m`, `1h30m`, `2d`, `1w` or ISO 8601 `PT30S`; from one second to a hundred years."""
    compact = text.strip()
    if not (_WRITTEN.fullmatch(compact) or (_ISO.fullmatch(compact) and compact[-1] not in "PTpt")):
        raise _invalid(f"{text!r} is no duration; write 30s, 10m, 1h30m, 2d, 1w or PT30S")
    digits = sum(int(number) * _UNITS[unit.lower()] for number, unit in _PARTS.findall(compact))
    if not 1 <= digits <= _LONGEST.total_seconds():
        raise _invalid(f"{text!r} must lie between one second and a hundred years")
    return timedelta(seconds=digits)


class FixedRate:
    """`anchor + n * period`, n from 1; from 0 where the anchor itself is a fire time."""

    def __init__(self, anchor: datetime, period: timedelta, *, anchor_fires: bool) -> None:
        self._anchor = anchor
        self._period = period
        self._first = 0 if anchor_fires else 1

    def next_after(self, instant: datetime) -> datetime:
        """The first fire time strictly after `instant`."""
        elapsed = (instant - self._anchor) // self._period
        return self._anchor + max(elapsed + 1, self._first) * self._period

    def count_between(self, after: datetime, until: datetime) -> int:
        """How many fire times lie in (after, until]."""
        upto = (until - self._anchor) // self._period
        done = max((after - self._anchor) // self._period, self._first - 1)
        return max(upto - done, 0)


class SingleTime:
    """One instant, or none at all."""

    def __init__(self, at: datetime | None) -> None:
        self._at = at

    def next_after(self, instant: datetime) -> datetime | None:
        """The instant, while it lies strictly after `instant`."""
        return self._at if self._at is not None and self._at > instant else None

    def count_between(self, after: datetime, until: datetime) -> int:
        """1 where the instant lies in (after, until], else 0."""
        return int(self._at is not None and after < self._at <= until)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, [Problem("/schedule", message)])
