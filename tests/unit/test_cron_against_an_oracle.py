"""Fire times compared with those of a second calculator, the oracle."""

import random
from datetime import datetime, timedelta

import pytest
from tests.oracle import minutes_of_year, oracle

from tidemill.domain.schedule import ScheduleSpec, compile_schedule

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


def fire_times(expression: str, zone: str) -> list[datetime]:
    """The product's answer for the same year."""
    minutes = minutes_of_year(zone, ZONES[zone])
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
        expected = oracle(expression, zone, ZONES[zone])
        assert fire_times(expression, zone) == expected, (expression, zone)
        compared += len(expected)

    assert compared > 600_000  # six zones: about four million in all
