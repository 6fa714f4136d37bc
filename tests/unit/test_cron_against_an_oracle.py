"""Fire times compared with a second calculator that shares no line with the product.

The oracle walks through every minute of a year, asks the zone database what the clock shows, and
holds that against the fields, one by one. It is slow and has nothing clever in it.
"""

import random
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import product
from zoneinfo import ZoneInfo

import pytest

from tidemill.domain.schedule import ScheduleSpec, compile_schedule

MINUTE = timedelta(minutes=1)
ZONES = {  # each with a year in which its clock does something unusual
    "Europe/Berlin": 2025,
    "America/New_York": 2025,
    "Australia/Lord_Howe": 2025,  # shifts by half an hour
    "America/Santiago": 2024,  # jumps at midnight
    "Africa/Casablanca": 2025,  # goes back for Ramadan
    "Pacific/Apia": 2011,  # has no 30 December
}
EXPRESSIONS = (
    "* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "0 0 * * *", "15,45 1-3 * * *",
    "59 23 31 12 *", "0 */2 * * *", "*/15 2 * * *", "5 0,12 1,15 * *", "0 3 * * sun",
    "0 0 13 * fri", "30 0-4 * 3,4,10,11 *", "10 2 1-7 * 1", "0 0 */2 * *",
    "45 1 * * 6-7", "0 2 * feb-apr *", "* 2 * * *", "20-40/10 2 * * *", "0 0 29 2 *",
    "30 1,2 * * 0", "0 12 30 12 *", "1 0 * * *",
)  # fmt: skip
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "sun mon tue wed thu fri sat".split()
NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {name: number for number, name in enumerate(MONTHS, 1)},
    {name: number for number, name in enumerate(WEEKDAYS)},
)


def field(text: str, place: int) -> set[int]:
    """The values that one field allows."""
    first, last = RANGES[place]
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            low, high = first, last
        else:
            low_text, _, high_text = span.partition("-")
            low = NAMES[place].get(low_text, -1) if low_text.isalpha() else int(low_text)
            high = low
            if high_text:
                high = NAMES[place].get(high_text, -1) if high_text.isalpha() else int(high_text)
        found |= set(range(low, high + 1, int(step or 1)))
    return {value % 7 for value in found} if place == 4 else found


def allows_day(fields: list[set[int]], texts: list[str], day: date) -> bool:
    weekday = (day.weekday() + 1) % 7
    by_date, by_weekday = day.day in fields[2], weekday in fields[4]
    if texts[2].startswith("*") or texts[4].startswith("*"):
        is_day = by_date and by_weekday
    else:
        is_day = by_date or by_weekday
    return is_day and day.month in fields[3]


@cache
def minutes_of_year(zone: str) -> list[tuple[datetime, datetime]]:
    """Every minute of the zone's year: as UTC, and what the clock shows."""
    begin = datetime(ZONES[zone], 1, 1, tzinfo=UTC)
    count = 60 * 24 * (366 if ZONES[zone] % 4 == 0 else 365)
    instants = [begin + MINUTE * n for n in range(count)]
    info = ZoneInfo(zone)
    return [(at, at.astimezone(info).replace(tzinfo=None)) for at in instants]


def oracle(expression: str, zone: str) -> list[datetime]:
    """Every fire time of the zone's year."""
    texts = expression.split()
    fields = [field(text, place) for place, text in enumerate(texts)]
    follows_time = any(sign in text for text in texts[:2] for sign in "*/")
    if follows_time:
        return [
            at
            for at, wall in minutes_of_year(zone)
            if wall.minute in fields[0]
            and wall.hour in fields[1]
            and allows_day(fields, texts, wall.date())
        ]
    begin = date(ZONES[zone], 1, 1) - timedelta(days=2)
    days = [begin + timedelta(days=n) for n in range(371)]
    found = {
        resolved(datetime(day.year, day.month, day.day, hour, minute), zone)
        for day in days
        if allows_day(fields, texts, day)
        for hour, minute in product(sorted(fields[1]), sorted(fields[0]))
    }
    first, last = minutes_of_year(zone)[0][0], minutes_of_year(zone)[-1][0]
    return sorted(at for at in found if first <= at <= last)


def resolved(wall: datetime, zone: str) -> datetime:
    """The instant of a wall time: the first of two, or the first after the gap it falls in."""
    info = ZoneInfo(zone)
    at = wall.replace(tzinfo=info).astimezone(UTC)
    if at.astimezone(info).replace(tzinfo=None) == wall:
        return at
    at -= timedelta(hours=26)
    while at.astimezone(info).replace(tzinfo=None) < wall:
        at += MINUTE
    return at


def fire_times(expression: str, zone: str) -> list[datetime]:
    """The product's answer for the same year."""
    minutes = minutes_of_year(zone)
    spec = ScheduleSpec(expression, zone, "run_after", "first", anchor_at=minutes[0][0])
    return compile_schedule(spec).fires_between(
        minutes[0][0] - timedelta(microseconds=1), minutes[-1][0], 10_000_000
    )


def random_expression(chooser: random.Random) -> str:
    """A fixed-time rule near the hours at which clocks jump."""
    minute = chooser.choice(["0", "30", "1,31", "59", str(chooser.randrange(60))])
    hour = chooser.choice(["0", "1", "2", "3", "0-3", "23", "1,2", "2-4"])
    day = chooser.choice(["*", "*", "1", "28-31", "30", "*/3"])
    month = chooser.choice(["*", "*", "3-4", "9-11", "12"])
    weekday = chooser.choice(["*", "*", "0", "5-7", "sun,wed"])
    return f"{minute} {hour} {day} {month} {weekday}"


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_fire_times_equal_those_of_the_oracle(zone: str) -> None:
    chooser = random.Random(zone)
    expressions = [*EXPRESSIONS, *(random_expression(chooser) for _ in range(150))]
    compared = 0
    for expression in expressions:
        expected = oracle(expression, zone)
        assert fire_times(expression, zone) == expected, (expression, zone)
        compared += len(expected)

    assert compared > 600_000  # six zones: about four million in all
