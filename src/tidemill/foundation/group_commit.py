"""Callers who come while a transaction is under way share the next one.

A commit takes as long for many as for one. Nobody waits for company: whoever comes while none is
under way has a transaction at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tidemill.errors import SchedulerError, Unavailable
from tidemill.foundation.store import Store, Transaction

Wish = TypeVar("Wish")
Answer = TypeVar("Answer")

_MOST = 1_000  # in one transaction
# One that waits for somebody else's rows keeps nobody back who wants others.
_PATIENCE_SECONDS = 0.1


class GroupCommit(Generic[Wish, Answer]):
    """Carries out wishes of many callers, each of whom awaits its own.

    `carry_out` does what several ask for, in the order in which they came, all or none. Where it
    cannot do all of them, each has a transaction of its own: nobody fails for what another asked.
    """

    def __init__(
        self, store: Store, carry_out: Callable[[Transaction, Sequence[Wish]], Sequence[Answer]]
    ) -> None:
        self._store = store
        self._carry_out = carry_out
        self._waiting: list[tuple[Wish, asyncio.Future[Answer]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, wish: Wish) -> Answer:
        """What came of this wish, once that is durable; raises what `carry_out` raises for it
        alone, and Unavailable as `Store.transact` does.

        What was asked for stands, whoever stops waiting for it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, answer))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            answering = asyncio.create_task(self._answer(batch))
            await asyncio.wait([answering], timeout=_PATIENCE_SECONDS)
        self._serving = None

    async def _answer(self, batch: "list[tuple[Wish, asyncio.Future[Answer]]]") -> None:
        wishes = [wish for wish, _ in batch]
        try:
            answers = await self._store.transact(lambda t: self._carry_out(t, wishes))
        except Exception as error:
            if len(batch) > 1 and _may_concern_one(error):
                await asyncio.gather(*(self._answer([each]) for each in batch))
            else:
                _tell(batch, error)
        else:
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)


def _may_concern_one(error: Exception) -> bool:
    is_silent = isinstance(error, Unavailable) and not error.was_reached
    return isinstance(error, SchedulerError) and not is_silent


def _tell(batch: "Sequence[tuple[Wish, asyncio.Future[Answer]]]", error: Exception) -> None:
    for _, waiting in batch:
        if not waiting.done():
            waiting.set_exception(error)
