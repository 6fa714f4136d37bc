"""Slots that trees share: who waits, who gets what comes back, and when a slot is let go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from tidemill.errors import Unavailable
from tidemill.worker.executors.slot import Slot
from tidemill.worker.executors.slot_pool import SlotPool


class FakeSlot:
    def __init__(self) -> None:
        self.is_connected = True
        self.forget: Callable[[Slot], object] = lambda _: None

    def hang_up(self) -> None:
        self.is_connected = False
        self.forget(cast(Slot, self))


class Makers:
    """Makes slots when the test says so, and counts who is at it."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Slot]] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self) -> Slot:
        asked: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await asked
        finally:
            self.at_once -= 1

    def make(self) -> Slot:
        slot = new_slot()
        self.asked[-1].set_result(slot)
        return slot


def new_slot() -> Slot:
    return cast(Slot, FakeSlot())


async def rounds(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def pool_with(make: Callable[[], Awaitable[Slot]], waiting: int) -> tuple[SlotPool, Any]:
    pool = SlotPool(make)
    waiters = [asyncio.ensure_future(pool.take()) for _ in range(waiting)]
    await rounds()
    return pool, waiters


async def test_slots_are_made_one_at_a_time_until_all_who_wait_have_one() -> None:
    makers = Makers()
    _, waiters = await pool_with(makers, 3)

    made = []
    for _ in range(3):
        made.append(makers.make())
        await rounds()

    assert [waiter.result() for waiter in waiters] == made
    assert makers.most_at_once == 1
    assert len(makers.asked) == 3


async def test_what_comes_back_is_the_firsts_in_line_and_what_is_made_for_it_is_kept() -> None:
    makers = Makers()
    pool, [first] = await pool_with(makers, 1)

    back = new_slot()
    pool.give_back(back)
    await rounds()
    made = makers.make()
    await rounds()

    assert first.result() is back
    assert await pool.take() is made
    assert len(makers.asked) == 1


@pytest.mark.parametrize("error", [Unavailable("no room"), OSError("no room")])
async def test_a_slot_that_cannot_be_made_fails_the_one_who_is_first_in_line(
    error: Exception,
) -> None:
    makers = Makers()
    _, [first, second] = await pool_with(makers, 2)

    makers.asked[-1].set_exception(error)
    await rounds()
    made = makers.make()
    await rounds()

    with pytest.raises(type(error), match="no room"):
        first.result()
    assert second.result() is made


async def test_a_slot_is_not_lost_where_who_waited_for_it_is_cancelled() -> None:
    makers = Makers()
    pool, [early, late] = await pool_with(makers, 2)

    early.cancel()
    await rounds()
    back = new_slot()
    pool.give_back(back)
    late.cancel()  # after it was given a slot, before it could take it
    await rounds()

    assert late.cancelled()
    assert await pool.take() is back


async def test_a_slot_that_is_gone_is_given_to_nobody() -> None:
    pool, _ = await pool_with(Makers(), 0)
    gone, kept, forgotten = new_slot(), new_slot(), new_slot()

    gone.hang_up()
    for slot in (kept, forgotten, gone):
        pool.give_back(slot)
    pool.forget(forgotten)

    assert await pool.take() is kept


async def test_of_slots_that_nobody_needs_a_few_are_kept_and_the_others_rest_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    calls: list[tuple[float, Callable[[], object]]] = []
    now = loop.time()

    def call_at(instant: float, call: Callable[[], object]) -> object:
        calls.append((instant, call))
        return call

    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop, "call_at", call_at)
    pool = SlotPool(Makers())
    slots = [new_slot() for _ in range(20)]
    for slot in slots:
        cast(FakeSlot, slot).forget = pool.forget

    for slot in slots[:10]:
        pool.give_back(slot)
    now += 1
    for slot in slots[10:]:
        pool.give_back(slot)
    [(first_look, look)] = calls
    now = first_look
    look()
    connected = [slot.is_connected for slot in slots]
    [_, (second_look, look)] = calls
    now = second_look
    look()

    assert connected == [False] * 10 + [True] * 10
    assert [slot.is_connected for slot in slots] == [False] * 12 + [True] * 8
    assert len(calls) == 2
