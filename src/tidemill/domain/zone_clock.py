"""Local clocks as stretches of constant offset, and what a rule on the wall makes of the jumps."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tidemill.errors import InvalidInput, Problem

# No zone changes its offset twice within so short a time: a test looks through all of them.
_PROBE = timedelta(days=3)
_SECOND = timedelta(seconds=1)
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


class WallRule(Protocol):
    """Matching local times, as naive datetimes."""

    follows_elapsed_time: bool  # fires in every real hour, whatever the clock on the wall does

    def next_wall(self, at_or_after: datetime) -> datetime | None:
        """The first matching time that is not before `at_or_after`."""

    def count_walls(self, since: datetime, until: datetime) -> int:
        """How many matching times lie in [since, until)."""


class ZonedTimes:
    """The instants at which a rule on the wall fires in one zone.

    A rule that follows elapsed time fires whenever the wall shows a matching time. Any other fires
    once for each matching time: one that falls in a gap at the first instant after it, or not at
    all; one that comes twice the first time, the second, or both.
    """

    def __init__(
        self,
        rule: WallRule,
        zone: "ZoneClock",
        gap: Literal["run_after", "skip"],
        fold: Literal["first", "second", "both"],
    ) -> None:
        self._rule = rule
        self._zone = zone
        self._moves_gaps = gap == "run_after" and not rule.follows_elapsed_time
        self._fold = "both" if rule.follows_elapsed_time else fold

    def next_after(self, instant: datetime) -> datetime | None:
        """The first fire time strictly after `instant`."""
        at = instant.replace(tzinfo=None)
        stretch = self._zone.stretch_at(at)
        wall = at.replace(microsecond=0) + stretch.offset + _SECOND
        while True:
            wall = max(wall, self._opens_at(stretch))
            found = self._rule.next_wall(wall)
            if found is not None and stretch.end is None:  # as far as was known until now
                self._zone.learn(found.year)
                stretch = self._zone.stretch_at(wall - stretch.offset)
            if found is not None and found < self._closes_at(stretch):
                return (found - stretch.offset).replace(tzinfo=UTC)
            if stretch.end is None:
                return None
            if self._has_moved_fire(stretch):
                return stretch.end.replace(tzinfo=UTC)
            following = self._zone.stretch_at(stretch.end)
            if found is None and following.offset >= stretch.offset:
                return None
            wall, stretch = stretch.end + following.offset, following

    def count_between(self, after: datetime, until: datetime) -> int:
        """How many fire times lie in (after, until]."""
        begin = after.replace(tzinfo=None, microsecond=0) + _SECOND
        end = until.replace(tzinfo=None, microsecond=0) + _SECOND
        count = 0
        self._zone.learn(begin.year)
        self._zone.learn(end.year)
        while begin < end:
            stretch = self._zone.stretch_at(begin)
            upto = end if stretch.end is None else min(end, stretch.end)
            count += self._rule.count_walls(
                max(begin + stretch.offset, self._opens_at(stretch)),
                min(upto + stretch.offset, self._closes_at(stretch)),
            )
            if stretch.end is not None and stretch.end < end and self._has_moved_fire(stretch):
                count += 1
            begin = upto
        return count

    def note_at(self, instant: datetime) -> str | None:
        """What the clock did at a fire time, in words."""
        at = instant.replace(tzinfo=None)
        stretch = self._zone.stretch_at(at)
        before = self._zone.stretch_at(stretch.start - _SECOND) if stretch.start else None
        if before is not None and before.offset < stretch.offset and at == stretch.start:
            if self._has_moved_fire(before):
                return "moved out of a gap: the local clock skipped the time of the rule"
            return None
        wall = at + stretch.offset
        if before is not None and before.offset > stretch.offset:
            assert stretch.start is not None
            if wall < stretch.start + before.offset:
                return "in a fold: the local clock shows this time for the second time"
        if stretch.end is not None:
            following = self._zone.stretch_at(stretch.end)
            if wall >= stretch.end + following.offset:
                return "in a fold: the local clock shows this time for the first time"
        return None

    def _opens_at(self, stretch: "Stretch") -> datetime:
        """The first wall time that counts in a stretch: after a fold, what came before is done."""
        if stretch.start is None:
            return datetime.min
        opens = stretch.start + stretch.offset
        if self._fold == "first":
            before = self._zone.stretch_at(stretch.start - _SECOND)
            opens = max(opens, stretch.start + before.offset)
        if self._moves_gaps and self._is_moved_to(stretch):
            return opens + _SECOND  # the moved fire stands for one at this very instant
        return opens

    def _closes_at(self, stretch: "Stretch") -> datetime:
        """The wall time from which on a stretch does not count: it is to come once more."""
        if stretch.end is None:
            return datetime.max
        closes = stretch.end + stretch.offset
        if self._fold == "second":
            following = self._zone.stretch_at(stretch.end)
            closes = min(closes, stretch.end + following.offset)
        return closes

    def _is_moved_to(self, stretch: "Stretch") -> bool:
        assert stretch.start is not None
        return self._has_moved_fire(self._zone.stretch_at(stretch.start - _SECOND))

    def _has_moved_fire(self, stretch: "Stretch") -> bool:
        """Whether the gap that ends this stretch swallowed a fire time that is moved."""
        if not self._moves_gaps or stretch.end is None:
            return False
        following = self._zone.stretch_at(stretch.end)
        found = self._rule.next_wall(stretch.end + stretch.offset)
        return found is not None and found < stretch.end + following.offset


class Stretch:
    """A stretch of constant offset: [start, end) in naive UTC; None is without bound."""

    __slots__ = ("end", "offset", "start")

    def __init__(self, start: datetime | None, end: datetime | None, offset: timedelta) -> None:
        self.start = start
        self.end = end
        self.offset = offset


_Change = tuple[datetime, timedelta]  # the instant, and the offset from then on


class _Known(NamedTuple):
    """What is known of a zone. Replaced as a whole: threads share a clock without a lock."""

    covered: tuple[int, int]
    starts: list[datetime]
    stretches: list[Stretch]


class ZoneClock:
    """One zone's stretches, found year by year as they are asked for."""

    def __init__(self, name: str, zone: ZoneInfo) -> None:
        self.name = name
        self.zone = zone
        self._years: dict[int, list[_Change]] = {}
        self._known = _Known((1, 0), [], [])

    def stretch_at(self, at: datetime) -> Stretch:
        """The stretch that holds an instant in naive UTC."""
        self.learn(at.year)
        known = self._known
        return known.stretches[bisect_right(known.starts, at)]

    def learn(self, year: int) -> None:
        """Know the changes around `year`."""
        first, last = self._known.covered
        if not first < year < last:
            self._cover(year)

    def _cover(self, year: int) -> None:
        """Know all changes from a few years before `year` to a few after."""
        low, high = self._known.covered
        low = max(min(year - 2, low if high else year), _FIRST_YEAR)
        high = min(max(year + 3, high), _LAST_YEAR)
        for each in range(low, high + 1):
            if each not in self._years:
                self._years[each] = list(self._changes_in(each))
        changes = [change for each in range(low, high + 1) for change in self._years[each]]
        starts = [start for start, _ in changes]
        before = self._offset((starts[0] if starts else datetime(low, 6, 1)) - _PROBE)
        offsets = [before, *(offset for _, offset in changes)]
        edges = pairwise([None, *starts, None])
        stretches = [
            Stretch(start, end, offset) for (start, end), offset in zip(edges, offsets, strict=True)
        ]
        covered = (low if low > _FIRST_YEAR else 0, high if high < _LAST_YEAR else 10_000)
        self._known = _Known(covered, starts, stretches)

    def _changes_in(self, year: int) -> Iterator[_Change]:
        at, end = datetime(year, 1, 1), datetime(year + 1, 1, 1)
        offset = self._offset(at - _PROBE)
        at -= _PROBE
        while at < end:
            following = at + _PROBE
            changed = self._offset(following)
            if changed != offset:
                instant = self._first_with(changed, at, following)
                if instant.year == year:
                    yield instant, changed
            at, offset = following, changed

    def _first_with(self, offset: timedelta, before: datetime, after: datetime) -> datetime:
        while after - before > _SECOND:
            middle = before + (after - before) // 2
            middle = middle.replace(microsecond=0)
            if self._offset(middle) == offset:
                after = middle
            else:
                before = middle
        return after

    def _offset(self, at: datetime) -> timedelta:
        offset = at.replace(tzinfo=UTC).astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset


@lru_cache(maxsize=1024)
def zone_clock(name: str) -> ZoneClock:
    """The clock of a zone of the tz database; raises InvalidInput naming the nearest."""
    try:
        return ZoneClock(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = get_close_matches(name, available_timezones(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"no time zone {name[:80]!r}{hint}"
        raise InvalidInput(message, [Problem("/timezone", message)]) from None
