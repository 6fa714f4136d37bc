"""A second calculator of fire times, which shares no line with the product.

The oracle walks through every minute of a year, asks the zone database what the clock shows, and
holds that against the fields, one by one. It is slow and has nothing clever in it.
"""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import product
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
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
def minutes_of_year(zone: str, year: int) -> list[tuple[datetime, datetime]]:
    """Every minute of the year: as UTC, and what the clock shows."""
    begin = datetime(year, 1, 1, tzinfo=UTC)
    count = 60 * 24 * (366 if year % 4 == 0 else 365)
    instants = [begin + MINUTE * n for n in range(count)]
    info = ZoneInfo(zone)
    return [(at, at.astimezone(info).replace(tzinfo=None)) for at in instants]


def next_fires(expression: str, zone: str, after: datetime, count: int) -> list[datetime]:
    """The first `count` fire times after an instant."""
    found: list[datetime] = []
    year = after.year
    while len(found) < count:
        found += [at for at in oracle(expression, zone, year) if at > after]
        year += 1
    return found[:count]


@cache
def oracle(expression: str, zone: str, year: int) -> list[datetime]:
    """Every fire time of a year that is one in UTC."""
    texts = expression.split()
    fields = [field(text, place) for place, text in enumerate(texts)]
    follows_time = any(sign in text for text in texts[:2] for sign in "*/")
    if follows_time:
        return [
            at
            for at, wall in minutes_of_year(zone, year)
            if wall.minute in fields[0]
            and wall.hour in fields[1]
            and allows_day(fields, texts, wall.date())
        ]
    begin = date(year, 1, 1) - timedelta(days=2)
    days = [begin + timedelta(days=n) for n in range(371)]
    found = {
        resolved(datetime(day.year, day.month, day.day, hour, minute), zone)
        for day in days
        if allows_day(fields, texts, day)
        for hour, minute in product(sorted(fields[1]), sorted(fields[0]))
    }
    return sorted(at for at in found if at.year == year)


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
