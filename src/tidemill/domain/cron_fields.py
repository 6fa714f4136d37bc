"""Reading cron expressions: crontab(5), with seconds in front, `L W # ?` and hash-spread `H`.

Five fields are minute, hour, day of month, month, day of week; six begin with seconds.
"""

import hashlib
import re
from collections.abc import Sequence
from difflib import get_close_matches

import msgspec

from tidemill.errors import InvalidInput, Problem

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"), 1
    )
}
_DAYS = {
    name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))
}

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Field(msgspec.Struct, frozen=True):
    """What a field may hold."""

    name: str
    low: int
    high: int
    names: dict[str, int] = {}


_SECOND = Field("second", 0, 59)
_MINUTE = Field("minute", 0, 59)
_HOUR = Field("hour", 0, 23)
_MONTH_DAY = Field("day of month", 1, 31)
_MONTH = Field("month", 1, 12, _MONTHS)
_WEEK_DAY = Field("day of week", 0, 7, _DAYS)


class DayRule(msgspec.Struct, frozen=True):
    """Which days of a month match.

    `month_days` and `week_days` (Sunday 0) are plain sets; the others are the special forms.
    """

    month_days: frozenset[int] = frozenset()
    week_days: frozenset[int] = frozenset()
    days_before_last: frozenset[int] = frozenset()  # L is 0, L-3 is 3
    nearest_work_days: frozenset[int] = frozenset()  # 15W
    is_last_work_day: bool = False  # LW
    last_week_days: frozenset[int] = frozenset()  # 5L
    nth_week_days: frozenset[tuple[int, int]] = frozenset()  # MON#2 is (1, 2)
    is_either: bool = False  # both fields are restricted: one match is enough


class CronFields(msgspec.Struct, frozen=True):
    """A whole expression as sets."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    days: DayRule
    follows_elapsed_time: bool  # a wildcard or a step in hour or minute


def parse_cron(expression: str, hash_key: str) -> CronFields:
    """The fields of `expression`; raises InvalidInput naming the field, the value and the range."""
    texts = NICKNAMES.get(expression.lower(), expression).upper().split()
    if expression.startswith("@") and expression.lower() not in NICKNAMES:
        raise _unknown_nickname(expression)
    if len(texts) not in {5, 6}:
        raise _invalid(
            f"{expression!r} has {len(texts)} fields; a cron expression has 5, or 6 with seconds "
            "in front"
        )
    second, minute, hour, month_day, month, week_day = texts if len(texts) == 6 else ["0", *texts]
    return CronFields(
        seconds=_plain(second, _SECOND, hash_key),
        minutes=_plain(minute, _MINUTE, hash_key),
        hours=_plain(hour, _HOUR, hash_key),
        months=frozenset(_plain(month, _MONTH, hash_key)),
        days=_day_rule(month_day, week_day, hash_key),
        follows_elapsed_time=any(mark in text for text in (minute, hour) for mark in "*/?"),
    )


def _unknown_nickname(expression: str) -> InvalidInput:
    if expression.lower() == "@reboot":
        return _invalid("@reboot names no time; use a service manager for what starts with a host")
    known = [*NICKNAMES, "@every 30s", "@after 10m", "@at 2030-01-01T00:00:00Z"]
    near = get_close_matches(expression.lower(), known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    return _invalid(f"{expression!r} is no known schedule{hint}")


def _plain(text: str, field: Field, hash_key: str) -> tuple[int, ...]:
    values: set[int] = set()
    for part in text.split(","):
        values |= _values(part, field, hash_key)
    return tuple(sorted(values))


_RANGE = re.compile(r"(?P<first>\*|\?|[A-Z]+|\d+)(?:-(?P<last>[A-Z]+|\d+))?(?:/(?P<step>\d+))?")
_HASHED = re.compile(r"H(?:\((?P<low>\d+)-(?P<high>\d+)\))?(?:/(?P<step>\d+))?")


def _values(part: str, field: Field, hash_key: str) -> set[int]:
    if hashed := _HASHED.fullmatch(part):
        return _hashed(part, hashed, field, hash_key)
    found = _RANGE.fullmatch(part)
    if found is None:
        raise _bad_part(part, field)
    step = int(found["step"]) if found["step"] else 1
    if step == 0:
        raise _invalid(f"{part!r} in {field.name}: a step must be at least 1")
    if found["first"] in {"*", "?"}:
        if found["last"]:
            raise _bad_part(part, field)
        return set(range(field.low, _top(field) + 1, step))
    first = _number(found["first"], field)
    if found["last"]:
        return set(_span(first, _number(found["last"], field), field)[::step])
    if found["step"]:
        return set(range(first, _top(field) + 1, step))
    return {first % 7 if field is _WEEK_DAY else first}


def _span(first: int, last: int, field: Field) -> Sequence[int]:
    """The values from first to last, over the end of the field where last comes first."""
    if field is _WEEK_DAY:
        return [day % 7 for day in range(first, (last if last >= first else last + 7) + 1)]
    if last >= first:
        return range(first, last + 1)
    return [*range(first, field.high + 1), *range(field.low, last + 1)]


def _hashed(part: str, found: re.Match[str], field: Field, hash_key: str) -> set[int]:
    # Days stop at 28, so that a hashed day exists in every month.
    top = 28 if field is _MONTH_DAY else _top(field)
    low = int(found["low"]) if found["low"] else field.low
    high = int(found["high"]) if found["high"] else top
    if not field.low <= low <= high <= _top(field):
        raise _invalid(f"{part!r} in {field.name}: the range must lie in {field.low}-{field.high}")
    digest = hashlib.blake2b(f"{field.name}:{hash_key}".encode(), digest_size=8).digest()
    spread = int.from_bytes(digest)
    if not found["step"]:
        return {low + spread % (high - low + 1)}
    step = int(found["step"])
    if not 1 <= step <= high - low + 1:
        raise _invalid(f"{part!r} in {field.name}: the step must lie in 1-{high - low + 1}")
    return set(range(low + spread % step, high + 1, step))


def _day_rule(month_day: str, week_day: str, hash_key: str) -> DayRule:
    found = _Days()
    for part in month_day.split(","):
        _month_day(part, found, hash_key)
    for part in week_day.split(","):
        _week_day(part, found, hash_key)
    # Debian cron: a field that begins with a star does not restrict.
    is_open = [text[0] in "*?" for text in (month_day, week_day)]
    return DayRule(
        month_days=frozenset(found.month_days),
        week_days=frozenset(found.week_days),
        days_before_last=frozenset(found.days_before_last),
        nearest_work_days=frozenset(found.nearest_work_days),
        is_last_work_day=found.is_last_work_day,
        last_week_days=frozenset(found.last_week_days),
        nth_week_days=frozenset(found.nth_week_days),
        is_either=not any(is_open),
    )


class _Days:
    def __init__(self) -> None:
        self.month_days: set[int] = set()
        self.week_days: set[int] = set()
        self.days_before_last: set[int] = set()
        self.nearest_work_days: set[int] = set()
        self.is_last_work_day = False
        self.last_week_days: set[int] = set()
        self.nth_week_days: set[tuple[int, int]] = set()


def _month_day(part: str, days: _Days, hash_key: str) -> None:
    if part == "LW":
        days.is_last_work_day = True
    elif part == "L":
        days.days_before_last.add(0)
    elif found := re.fullmatch(r"L-(\d+)", part):
        if not 1 <= int(found[1]) <= 30:
            raise _invalid(f"{part!r} in day of month: at most 30 days before the last")
        days.days_before_last.add(int(found[1]))
    elif found := re.fullmatch(r"(\d+)W", part):
        days.nearest_work_days.add(_number(found[1], _MONTH_DAY))
    else:
        days.month_days |= _values(part, _MONTH_DAY, hash_key)


def _week_day(part: str, days: _Days, hash_key: str) -> None:
    if part == "L":
        days.week_days.add(6)
    elif found := re.fullmatch(r"([A-Z]{3}|\d+)L", part):
        days.last_week_days.add(_number(found[1], _WEEK_DAY) % 7)
    elif found := re.fullmatch(r"([A-Z]+|\d+)#(\d+)", part):
        if not 1 <= int(found[2]) <= 5:
            raise _invalid(f"{part!r} in day of week: the number after # must lie in 1-5")
        days.nth_week_days.add((_number(found[1], _WEEK_DAY) % 7, int(found[2])))
    else:
        days.week_days |= {day % 7 for day in _values(part, _WEEK_DAY, hash_key)}


def _number(text: str, field: Field) -> int:
    if text.isdecimal():
        value = int(text)
    elif text in field.names:
        value = field.names[text]
    else:
        near = get_close_matches(text, field.names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _invalid(f"{text!r} in {field.name} is no number and no name{hint}")
    if not field.low <= value <= field.high:
        raise _invalid(f"{value} in {field.name} must lie in {field.low}-{field.high}")
    return value


def _top(field: Field) -> int:
    return 6 if field is _WEEK_DAY else field.high


def _bad_part(part: str, field: Field) -> InvalidInput:
    return _invalid(
        f"{part!r} in {field.name} cannot be read; write a value, a range a-b, a step a-b/n, "
        f"a list a,b or * within {field.low}-{field.high}"
    )


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, [Problem("/schedule", message)])
