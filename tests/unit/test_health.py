"""Whether a process may serve, told by what it needs."""

import asyncio

import pytest

from tidemill.errors import Unavailable
from tidemill.observability.health import PROBE_SECONDS, Component, Health
from tidemill.testing.clock import FakeClock, run_in_virtual_time


class Part:
    """Something that a process uses."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if self.problem is not None:
            raise Unavailable(self.problem)


async def says_nothing() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def health() -> Health:
    return Health(FakeClock())


async def refusal(health: Health) -> str:
    with pytest.raises(Unavailable) as told:
        await health.check_ready()
    return str(told.value)


async def test_a_process_is_not_ready_before_it_serves(health: Health) -> None:
    assert await refusal(health) == "starting"
    health.serve([])
    await health.check_ready()


async def test_a_process_that_drains_is_not_ready_whatever_it_needs(health: Health) -> None:
    part = Part()
    health.serve([Component("database", part.check)])
    health.drain()

    assert await refusal(health) == "draining"
    assert part.asked == 0


async def test_a_process_that_begins_to_drain_while_it_is_asked_is_not_ready(
    health: Health,
) -> None:
    async def check() -> None:
        health.drain()

    health.serve([Component("database", check)])
    assert await refusal(health) == "draining"


async def test_all_that_is_needed_and_gone_is_named(health: Health) -> None:
    parts = {"database": "no database", "message_queue": "no broker", "cache": None}
    health.serve([Component(name, Part(problem).check) for name, problem in parts.items()])

    assert await refusal(health) == "no database; no broker"


async def test_a_part_is_asked_each_time_anew(health: Health) -> None:
    part = Part("gone")
    health.serve([Component("database", part.check)])
    assert await refusal(health) == "gone"
    part.problem = None

    await health.check_ready()
    assert part.asked == 2


async def test_what_is_not_needed_is_looked_at_and_keeps_nobody(health: Health) -> None:
    health.serve([
        Component("database", Part().check),
        Component("message_queue", Part("no broker").check, is_needed=False),
    ])  # fmt: skip

    await health.check_ready()
    assert [(each.component.name, each.problem) for each in await health.look()] == [
        ("database", None),
        ("message_queue", "no broker"),
    ]


def test_parts_that_say_nothing_are_gone_after_one_limit_for_all() -> None:
    clock = FakeClock()
    health = Health(clock)
    health.serve([Component(name, says_nothing) for name in ("database", "message_queue")])

    said = run_in_virtual_time(refusal(health), clock)
    assert said == (
        "the database does not answer within 2 s; the message queue does not answer within 2 s"
    )
    assert PROBE_SECONDS <= clock.monotonic() < 2 * PROBE_SECONDS
