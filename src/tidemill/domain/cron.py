"""Cron on the wall clock: which local times match, before any zone has its say.

Source: crontab(5) of Debian for the meaning of the fields; `L W #` as in Quartz.
"""

from bisect import bisect_left
from calendar import monthrange
from datetime import date, datetime, time
from functools import lru_cache

from tidemill.domain.cron_fields import CronFields, DayRule
from tidemill.errors import InvalidInput, Problem

# The calendar repeats after 400 years, but no rule of month, day and weekday waits longer than
# from one 29 February on its weekday to the next over a skipped leap year: 40 years.
_LONGEST_WAIT_YEARS = 41


class CronRule:
    """Matching local times, as naive datetimes of whole seconds."""

    def __init__(self, fields: CronFields) -> None:
        self._fields = fields
        self._first = time(fields.hours[0], fields.minutes[0], fields.seconds[0])
        self._per_day = len(fields.hours) * len(fields.minutes) * len(fields.seconds)
        self.follows_elapsed_time = fields.follows_elapsed_time

    def next_wall(self, at_or_after: datetime) -> datetime | None:
        """The first matching time that is not before `at_or_after`."""
        day = at_or_after.date()
        if self._matches(day):
            found = self._time_on(at_or_after.hour, at_or_after.minute, at_or_after.second)
            if found is not None:
                return datetime.combine(day, found)
        following = self._day_after(day)
        return None if following is None else datetime.combine(following, self._first)

    def count_walls(self, since: datetime, until: datetime) -> int:
        """How many matching times lie in [since, until)."""
        if until <= since:
            return 0
        first, last = since.date(), until.date()
        days = 0
        year, month = first.year, first.month
        while (year, month) <= (last.year, last.month):
            if month in self._fields.months:
                days += sum(
                    first <= date(year, month, day) < last
                    for day in matching_days(self._fields.days, year, month)
                )
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        count = days * self._per_day
        if self._matches(first):
            count -= self._times_before(since.time())
        if self._matches(last):
            count += self._times_before(until.time())
        return count

    def _matches(self, day: date) -> bool:
        return day.month in self._fields.months and day.day in matching_days(
            self._fields.days, day.year, day.month
        )

    def _time_on(self, hour: int, minute: int, second: int) -> time | None:
        """The first matching time of a day, not before this one."""
        hours, minutes, seconds = self._fields.hours, self._fields.minutes, self._fields.seconds
        if hour in hours:
            if minute in minutes:
                index = bisect_left(seconds, second)
                if index < len(seconds):
                    return time(hour, minute, seconds[index])
            index = bisect_left(minutes, minute + 1)
            if index < len(minutes):
                return time(hour, minutes[index], seconds[0])
        index = bisect_left(hours, hour + 1)
        if index < len(hours):
            return time(hours[index], minutes[0], seconds[0])
        return None

    def _times_before(self, moment: time) -> int:
        hours, minutes, seconds = self._fields.hours, self._fields.minutes, self._fields.seconds
        count = bisect_left(hours, moment.hour) * len(minutes) * len(seconds)
        if moment.hour in hours:
            count += bisect_left(minutes, moment.minute) * len(seconds)
            if moment.minute in minutes:
                count += bisect_left(seconds, moment.second)
                if moment.microsecond and moment.second in seconds:
                    count += 1
        return count

    def _day_after(self, day: date) -> date | None:
        days, months = self._fields.days, self._fields.months
        year, month, after = day.year, day.month, day.day
        last_year = min(day.year + _LONGEST_WAIT_YEARS, 9998)
        while year <= last_year:
            if month in months:
                for candidate in matching_days(days, year, month):
                    if candidate > after:
                        return date(year, month, candidate)
            after = 0
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        return None


def refuse_if_never(rule: CronRule, expression: str) -> None:
    """Raise InvalidInput where no day of any year matches."""
    if rule.next_wall(datetime(2000, 1, 1)) is None:
        message = f"{expression!r} never fires: no month has such a day"
        raise InvalidInput(message, [Problem("/schedule", message)])


@lru_cache(maxsize=16_384)
def matching_days(rule: DayRule, year: int, month: int) -> tuple[int, ...]:
    """The days of one month that match, ascending."""
    first_weekday, length = monthrange(year, month)
    weekday_of = [(first_weekday + 1 + index) % 7 for index in range(length)]  # Sunday is 0
    by_date = _by_date(rule, weekday_of)
    by_weekday = _by_weekday(rule, weekday_of)
    matching = by_date | by_weekday if rule.is_either else by_date & by_weekday
    return tuple(sorted(matching))


def _by_date(rule: DayRule, weekday_of: list[int]) -> set[int]:
    length = len(weekday_of)
    days = {day for day in rule.month_days if day <= length}
    days |= {length - before for before in rule.days_before_last if before < length}
    days |= {_nearest_work_day(day, weekday_of) for day in rule.nearest_work_days if day <= length}
    if rule.is_last_work_day:
        days.add(max(day for day in range(1, length + 1) if weekday_of[day - 1] not in {0, 6}))
    return days


def _by_weekday(rule: DayRule, weekday_of: list[int]) -> set[int]:
    length = len(weekday_of)
    days = {day for day in range(1, length + 1) if weekday_of[day - 1] in rule.week_days}
    days |= {
        day for day in range(length - 6, length + 1) if weekday_of[day - 1] in rule.last_week_days
    }
    for weekday, nth in rule.nth_week_days:
        same = [day for day in range(1, length + 1) if weekday_of[day - 1] == weekday]
        days |= set(same[nth - 1 : nth])
    return days


def _nearest_work_day(day: int, weekday_of: list[int]) -> int:
    """The Monday to Friday nearest to `day` that lies in the same month."""
    weekday = weekday_of[day - 1]
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < len(weekday_of) else day - 2
    return day
