"""Callers who come while a transaction is under way share the next one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from tidemill.errors import Conflict, Unavailable
from tidemill.foundation.group_commit import GroupCommit
from tidemill.foundation.store import Store, Transaction


class GatedStore:
    """Each of its transactions begins when it is called, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.error: Exception | None = None

    async def transact(self, body: Callable[[Transaction], Any]) -> Any:
        goes_on = asyncio.Event()
        self.begun.put_nowait(goes_on)
        await goes_on.wait()
        if self.error is not None:
            raise self.error
        return body(cast(Transaction, None))

    async def let_one_go_on(self) -> None:
        (await self.begun.get()).set()


class Desk:
    """Doubles numbers, and writes down which of them came together; 13 it refuses."""

    def __init__(self) -> None:
        self.store = GatedStore()
        self.batches: list[list[int]] = []
        self._shared = GroupCommit(cast(Store, self.store), self._double)

    def _double(self, _: Transaction, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        if 13 in numbers:
            raise Conflict("not 13")
        return [2 * number for number in numbers]

    def ask(self, *numbers: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self._shared.ask(number)) for number in numbers]


async def test_who_comes_meanwhile_shares_the_next_transaction() -> None:
    desk = Desk()
    first = desk.ask(1)
    goes_on = await desk.store.begun.get()
    others = desk.ask(2, 3, 4)
    goes_on.set()
    await desk.store.let_one_go_on()

    assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]
    assert desk.batches == [[1], [2, 3, 4]]


async def test_nobody_fails_for_what_another_asked() -> None:
    desk = Desk()
    asked = desk.ask(1, 13, 2)
    for _ in range(4):  # all of them, then each alone
        await desk.store.let_one_go_on()
    one, refused, two = await asyncio.gather(*asked, return_exceptions=True)

    assert (one, two) == (2, 4)
    assert isinstance(refused, Conflict)
    assert desk.batches == [[1, 13, 2], [1], [13], [2]]


async def test_a_database_that_is_silent_is_not_asked_again_by_each() -> None:
    desk = Desk()
    desk.store.error = Unavailable("it does not answer", was_reached=False)
    asked = desk.ask(1, 2)
    await desk.store.let_one_go_on()

    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert desk.store.begun.empty()


async def test_a_transaction_that_is_held_up_keeps_nobody_back() -> None:
    desk = Desk()
    [held_up] = desk.ask(1)
    goes_on = await desk.store.begun.get()
    [other] = desk.ask(2)
    await desk.store.let_one_go_on()

    assert await other == 4
    assert not held_up.done()
    goes_on.set()
    assert await held_up == 2


async def test_who_stops_waiting_has_asked_all_the_same() -> None:
    desk = Desk()
    gone, stays = desk.ask(1, 2)
    goes_on = await desk.store.begun.get()
    gone.cancel()
    goes_on.set()

    assert await stays == 4
    assert desk.batches == [[1, 2]]
    with pytest.raises(asyncio.CancelledError):
        await gone
